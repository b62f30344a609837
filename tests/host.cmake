# The host half: one Criterion program for each module.
find_path(CRITERION_INCLUDE_DIR criterion/criterion.h REQUIRED)
find_library(CRITERION_LIBRARY criterion REQUIRED)

# What each of them is built with.
add_library(tieralloc_host_test INTERFACE)
target_link_libraries(tieralloc_host_test INTERFACE
    tieralloc tieralloc_warnings "${CRITERION_LIBRARY}")
target_include_directories(tieralloc_host_test SYSTEM INTERFACE
    "${CRITERION_INCLUDE_DIR}")
if(TIERALLOC_SANITIZE)
    set(sanitize -fsanitize=address,undefined -fno-sanitize-recover=all)
    target_compile_options(tieralloc_host_test INTERFACE
        ${sanitize} -fno-omit-frame-pointer)
    target_link_options(tieralloc_host_test INTERFACE ${sanitize})
endif()

foreach(file IN LISTS test_files)
    string(REGEX REPLACE ".*/test_(.*)\\.c$" "\\1" module "${file}")

    add_executable(test_${module} "${file}")
    target_link_libraries(test_${module} PRIVATE tieralloc_host_test)
    add_test(NAME host.${module} COMMAND test_${module})
    set_tests_properties(host.${module} PROPERTIES
        LABELS host
        TIMEOUT 300
        FAIL_REGULAR_EXPRESSION "Tested: 0 ")
endforeach()
target_link_libraries(test_hosted PRIVATE tieralloc_hosted)
