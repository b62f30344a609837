# The bare-metal half: the same tests as images for QEMU. A test of a port that
# needs an operating system stays on the host.
list(FILTER test_files EXCLUDE REGEX "/test_hosted\\.c$")

# Build `target` from `file` and the stand-in for Criterion.
function(tieralloc_add_metal_test target file)
    tieralloc_add_image(${target}
        "${file}" "${CMAKE_CURRENT_SOURCE_DIR}/metal/main.c")
    target_include_directories(${target} PRIVATE
        "${CMAKE_CURRENT_SOURCE_DIR}/metal")
    target_compile_definitions(${target} PRIVATE TIERALLOC_TEST_STEPS=2000)
    target_link_libraries(${target} PRIVATE tieralloc tieralloc_warnings)
    # A little less than ctest grants: tools/run-virt says what hung.
    set_target_properties(${target} PROPERTIES CROSSCOMPILING_EMULATOR
        "${CMAKE_CROSSCOMPILING_EMULATOR};--timeout;290")
endfunction()

foreach(file IN LISTS test_files)
    string(REGEX REPLACE ".*/test_(.*)\\.c$" "\\1" module "${file}")

    tieralloc_add_metal_test(test_${module} "${file}")
    add_test(NAME rv${TIERALLOC_XLEN}.${module} COMMAND test_${module})
    set_tests_properties(rv${TIERALLOC_XLEN}.${module} PROPERTIES
        LABELS metal
        TIMEOUT 300)
endforeach()

# add_stand_in_test(CASE TEXT...)
#
# The stand-in itself: metal/CASE.c must end in exit code 1 and print each TEXT.
function(add_stand_in_test case)
    tieralloc_add_metal_test(metal_${case}
        "${CMAKE_CURRENT_SOURCE_DIR}/metal/${case}.c")
    add_test(NAME rv${TIERALLOC_XLEN}.metal-${case}
        COMMAND "${CMAKE_CURRENT_SOURCE_DIR}/riscv-virt/expect" 1 ${ARGN} --
            ${CMAKE_CROSSCOMPILING_EMULATOR} $<TARGET_FILE:metal_${case}>)
    set_tests_properties(rv${TIERALLOC_XLEN}.metal-${case} PROPERTIES
        LABELS metal
        TIMEOUT 120)
endfunction()

add_stand_in_test(fails
    "fails.c:19: does not hold: pages == 4: found 3 pages$"
    "fails.c:25: does not hold: \"text\" == NULL$"
    "fails.c:26: does not hold: 1 > 2: second claim$"
    "^1 passed, 2 failed$")
add_stand_in_test(empty "^0 passed, 0 failed$")
