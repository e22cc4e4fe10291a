# How every target of ours is declared. Nothing is set globally, so nothing
# leaks into a project that embeds us.

add_library(turbofleet_options INTERFACE)
target_compile_features(turbofleet_options INTERFACE cxx_std_20)
target_compile_options(turbofleet_options INTERFACE
  -Wall -Wextra -Wpedantic -fstack-protector-strong
  # GCC 12's std::stable_sort calls what it has itself marked as deprecated.
  "$<$<CXX_COMPILER_ID:Clang>:-Wthread-safety;-Wno-deprecated-declarations>"
  # From 18 on Clang writes constraints into symbol names, which the system's libraries, built by GCC, do not have.
  $<$<AND:$<CXX_COMPILER_ID:Clang>,$<VERSION_GREATER_EQUAL:$<CXX_COMPILER_VERSION>,18>>:-fclang-abi-compat=17>
  $<$<BOOL:${TURBOFLEET_WERROR}>:-Werror>)
if(TURBOFLEET_SANITIZE)
  target_compile_options(turbofleet_options INTERFACE
    -fsanitize=${TURBOFLEET_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(turbofleet_options INTERFACE -fsanitize=${TURBOFLEET_SANITIZE})
  if(TURBOFLEET_FUZZ)
    # Coverage guides the fuzzer only through code that is instrumented.
    target_compile_options(turbofleet_options INTERFACE -fsanitize=fuzzer-no-link)
  endif()
else()
  target_compile_definitions(turbofleet_options INTERFACE
    $<$<CONFIG:Release,RelWithDebInfo>:_FORTIFY_SOURCE=2> _GLIBCXX_ASSERTIONS)
endif()
target_link_options(turbofleet_options INTERFACE -Wl,-z,relro,-z,now)
find_program(TURBOFLEET_MOLD mold)
if(TURBOFLEET_MOLD)
  # The linker is a fifth of a rebuild with the default one.
  target_link_options(turbofleet_options INTERFACE -fuse-ld=mold)
endif()

# What a program needs beside its libraries.
add_library(turbofleet_program_options INTERFACE)
target_link_libraries(turbofleet_program_options INTERFACE turbofleet_options)
if(TURBOFLEET_SANITIZE STREQUAL "thread")
  # Not instrumented: it stands for a part of libraries that are not.
  add_library(turbofleet_tsan OBJECT
    ${PROJECT_SOURCE_DIR}/tests/sanitizers/tsan_abseil.cc ${PROJECT_SOURCE_DIR}/tests/sanitizers/tsan_grpc.cc)
  target_include_directories(turbofleet_tsan PRIVATE ${PROJECT_SOURCE_DIR})
  target_compile_features(turbofleet_tsan PRIVATE cxx_std_20)
  target_link_libraries(turbofleet_tsan PRIVATE absl::synchronization gRPC::grpc++)
  target_sources(turbofleet_program_options INTERFACE $<TARGET_OBJECTS:turbofleet_tsan>)
  target_link_options(turbofleet_program_options INTERFACE
    -Wl,--version-script=${PROJECT_SOURCE_DIR}/tests/sanitizers/tsan.map)
  target_link_libraries(turbofleet_program_options INTERFACE absl::synchronization gRPC::grpc++)
endif()

# One layer: turbofleet_library(NAME HEADERS ... SOURCES ... DEPS ... PRIVATE_DEPS ...).
# DEPS are what its headers need, PRIVATE_DEPS what only its sources need.
# Paths are relative to the calling folder; includes are written from the root.
function(turbofleet_library name)
  cmake_parse_arguments(ARG "" "" "HEADERS;SOURCES;DEPS;PRIVATE_DEPS" ${ARGN})
  if(ARG_SOURCES)
    add_library(turbofleet_${name} STATIC ${ARG_SOURCES})
    set(scope PUBLIC)
    target_link_libraries(turbofleet_${name} PRIVATE turbofleet_options ${ARG_PRIVATE_DEPS})
  else()
    add_library(turbofleet_${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  add_library(turbofleet::${name} ALIAS turbofleet_${name})
  list(TRANSFORM ARG_HEADERS PREPEND ${CMAKE_CURRENT_SOURCE_DIR}/)
  target_sources(turbofleet_${name} ${scope} FILE_SET HEADERS
    BASE_DIRS ${PROJECT_SOURCE_DIR} FILES ${ARG_HEADERS})
  target_compile_features(turbofleet_${name} ${scope} cxx_std_20)
  target_link_libraries(turbofleet_${name} ${scope} ${ARG_DEPS})
endfunction()

# A program that lands in <build>/bin/.
function(turbofleet_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE turbofleet_program_options ${ARG_DEPS})
endfunction()

# A GoogleTest program, one CTest test per TEST(), or one for all with
# ONE_PROCESS. LABELS select groups (`ctest -L engine`); DATA tests find files
# under TURBOFLEET_SOURCE_DIR.
function(turbofleet_test name)
  cmake_parse_arguments(ARG "ONE_PROCESS" "TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_compile_definitions(${name} PRIVATE TURBOFLEET_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  # Tests write down the fields that matter to them; the others have their defaults.
  target_compile_options(${name} PRIVATE -Wno-missing-field-initializers)
  target_link_libraries(${name} PRIVATE turbofleet_program_options ${ARG_DEPS} GTest::gmock_main)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  if(ARG_ONE_PROCESS)
    add_test(NAME ${name} COMMAND ${name})
    set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}")
    return()
  endif()
  include(GoogleTest)
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60
    PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}")
endfunction()
