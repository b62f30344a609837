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

# add_variant(MODULE NAME OPTION...): a test with other options, in fewer steps.
function(add_variant module name)
    add_executable(test_${module}_${name} test_${module}.c)
    target_link_libraries(test_${module}_${name} PRIVATE tieralloc_host_test)
    target_compile_definitions(test_${module}_${name} PRIVATE
        TIERALLOC_TEST_STEPS=2000 ${ARGN})
    add_test(NAME host.${module}.${name} COMMAND test_${module}_${name})
    set_tests_properties(host.${module}.${name} PROPERTIES
        LABELS host
        TIMEOUT 300
        FAIL_REGULAR_EXPRESSION "Tested: 0 ")
endfunction()

# Once is enough: they take longer than all others together.
if(TIERALLOC_SANITIZE AND CMAKE_C_COMPILER_ID STREQUAL "GNU")
    add_variant(slab unchecked TIERALLOC_CHECKS=0)
    add_variant(slab guarded TIERALLOC_CHECKS=2)
    add_variant(slab steps8 TIERALLOC_CLASS_STEPS=8 TIERALLOC_MIN_ALIGN=16)
    add_variant(cpucache unchecked TIERALLOC_CHECKS=0)
    add_variant(cpucache guarded TIERALLOC_CHECKS=2)
    add_variant(cpucache one-cpu TIERALLOC_CPUS=1)
    add_variant(cpucache off TIERALLOC_CPUS=0)
    add_variant(cpucache steps8 TIERALLOC_CLASS_STEPS=8 TIERALLOC_MIN_ALIGN=16)
    add_variant(tieralloc guarded TIERALLOC_CHECKS=2)
    add_variant(tieralloc off TIERALLOC_CPUS=0)
    add_variant(modes guarded TIERALLOC_CHECKS=2)
    add_variant(rollback guarded TIERALLOC_CHECKS=2)
    add_variant(rollback off TIERALLOC_CPUS=0)
    add_variant(inspect off TIERALLOC_CPUS=0 TIERALLOC_CHECKS=1)
endif()
