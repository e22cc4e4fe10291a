# find_package(turbofleet): the target turbofleet::client, with the headers <turbofleet/client.h> and beside it.
include(CMakeFindDependencyMacro)
find_dependency(absl)
include(${CMAKE_CURRENT_LIST_DIR}/turbofleetTargets.cmake)
