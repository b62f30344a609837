# Build this tree again for rv64imac and rv32imac, as a part of the host's build,
# and let the host's ctest run the tests of all three.
include(ExternalProject)

# Fetched here once, rather than by both halves at the same time.
add_custom_target(tieralloc_lua_source
    COMMAND "${PROJECT_SOURCE_DIR}/tools/fetch-lua" "${TIERALLOC_LUA_DIR}"
    COMMENT "Lua sources in ${TIERALLOC_LUA_DIR}"
    USES_TERMINAL
    VERBATIM)

foreach(xlen 64 32)
    ExternalProject_Add(rv${xlen}
        SOURCE_DIR "${PROJECT_SOURCE_DIR}"
        BINARY_DIR "${PROJECT_BINARY_DIR}/rv${xlen}"
        PREFIX "${PROJECT_BINARY_DIR}/rv${xlen}-steps"
        CMAKE_ARGS
            "-DCMAKE_TOOLCHAIN_FILE=${PROJECT_SOURCE_DIR}/cmake/riscv-virt.cmake"
            "-DCMAKE_BUILD_TYPE=RelWithDebInfo"
            "-DTIERALLOC_XLEN=${xlen}"
            "-DTIERALLOC_LUA_DIR=${TIERALLOC_LUA_DIR}"
        INSTALL_COMMAND ""
        DEPENDS tieralloc_lua_source
        BUILD_ALWAYS ON
        USES_TERMINAL_CONFIGURE ON
        USES_TERMINAL_BUILD ON)
endforeach()

# ctest reads this file in the build tree's top directory. A half that was not
# built is a failed test, not a silent absence.
file(WRITE "${PROJECT_BINARY_DIR}/bare-metal-tests.cmake" [[
foreach(half rv64 rv32)
    if(EXISTS "${CMAKE_CURRENT_LIST_DIR}/${half}/CTestTestfile.cmake")
        subdirs("${half}")
    else()
        add_test("${half}.NOT_BUILT" "${half}-not-built")
    endif()
endforeach()
]])
set_property(DIRECTORY "${PROJECT_SOURCE_DIR}" APPEND PROPERTY
    TEST_INCLUDE_FILES "${PROJECT_BINARY_DIR}/bare-metal-tests.cmake")
