# Draws bench/pages.c: gnuplot -e "kind='svg'; out='PREFIX'" pages.gnuplot
set terminal @kind size 900,480
set output sprintf('%s.%s', out, kind)
set title 'Page tier on rv64imac, gcc -O2, every free checked'
set ylabel 'instructions per call, mean'
set style data histograms
set style histogram clustered gap 1
set style fill solid 0.8 border -1
set grid ytics
set yrange [0:*]
set xtics rotate by -30
set key top left
plot sprintf('%s.dat', out) using 2:xtic(1) title 'alloc', \
     '' using 3 title 'free'
