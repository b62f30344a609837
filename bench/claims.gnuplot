# Draws bench/claims.c: gnuplot -e "kind='svg'; out='PREFIX'" claims.gnuplot
set terminal @kind size 900,480
set output sprintf('%s.%s', out, kind)
set title 'A pair of calls on rv64imac, gcc -O2: tieralloc and a first-fit list'
set ylabel 'instructions per pair, mean'
set xlabel 'objects in use'
set logscale xy
set grid
set xrange [7:14000]
set yrange [10:*]
set key top left
set style data linespoints
plot sprintf('%s.dat', out) \
        using 1:2 title 'list, 64 bytes, as many holes as objects', \
     '' using 1:3 title 'list, 8 to 4096 bytes, replaced at random', \
     '' using 1:4 title 'tieralloc, the former', \
     '' using 1:5 title 'tieralloc, the latter'
