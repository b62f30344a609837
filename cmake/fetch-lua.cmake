# Have the Lua sources in TIERALLOC_LUA_DIR before anything is configured that
# compiles them. Where they are there already, this does nothing.
execute_process(
    COMMAND "${PROJECT_SOURCE_DIR}/tools/fetch-lua" "${TIERALLOC_LUA_DIR}"
    COMMAND_ERROR_IS_FATAL ANY)
