# riscv-virt.cmake - toolchain file: bare-metal RISC-V with gcc and picolibc.
#
# SPDX-License-Identifier: MIT
#
#   cmake -DCMAKE_TOOLCHAIN_FILE=cmake/riscv-virt.cmake -DTIERALLOC_XLEN=32
set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_SYSTEM_PROCESSOR riscv)

set(TIERALLOC_XLEN 64 CACHE STRING "Width of the RISC-V machine: 64 or 32")
set_property(CACHE TIERALLOC_XLEN PROPERTY STRINGS 64 32)
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES TIERALLOC_XLEN)

if(TIERALLOC_XLEN EQUAL 64)
    set(tieralloc_march rv64imac)
    set(tieralloc_mabi lp64)
elseif(TIERALLOC_XLEN EQUAL 32)
    set(tieralloc_march rv32imac)
    set(tieralloc_mabi ilp32)
else()
    message(FATAL_ERROR "TIERALLOC_XLEN is ${TIERALLOC_XLEN}: must be 64 or 32")
endif()

set(CMAKE_C_COMPILER riscv64-unknown-elf-gcc)
set(CMAKE_ASM_COMPILER riscv64-unknown-elf-gcc)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)

# gcc looks up its library variant by the exact name of the architecture, and
# takes the last -march: objects may use the CSR instructions, the link line
# must not name them, or the variant with floating-point registers is chosen.
set(tieralloc_flags
    "-march=${tieralloc_march}_zicsr -mabi=${tieralloc_mabi} -mcmodel=medany")
set(CMAKE_C_FLAGS_INIT "${tieralloc_flags} --specs=picolibc.specs")
set(CMAKE_ASM_FLAGS_INIT "${tieralloc_flags}")
set(CMAKE_EXE_LINKER_FLAGS_INIT "-march=${tieralloc_march}")

set(CMAKE_CROSSCOMPILING_EMULATOR
    "${CMAKE_CURRENT_LIST_DIR}/../tools/run-virt;--xlen;${TIERALLOC_XLEN}")

set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
