# libtorch as an imported target of our own: the wheel's TorchConfig.cmake
# demands a CUDA toolkit even where only the CPU half is used.
if(NOT TURBOFLEET_LIBTORCH OR NOT EXISTS ${TURBOFLEET_LIBTORCH}/lib/libtorch_cpu.so)
  message(FATAL_ERROR
    "No libtorch in '${TURBOFLEET_LIBTORCH}'. Run deploy/libtorch.sh, which fetches it and prints its folder, "
    "and pass that as -DTURBOFLEET_LIBTORCH=DIR, or build without the SD-Turbo engine: -DTURBOFLEET_TORCH=OFF.")
endif()

# The wheel's include folder also holds old google/protobuf and fmt headers.
# As a SYSTEM folder searched after all others it can never shadow Debian's.
add_library(turbofleet_torch INTERFACE)
add_library(turbofleet::torch ALIAS turbofleet_torch)
foreach(dir include include/torch/csrc/api/include)
  target_compile_options(turbofleet_torch INTERFACE "SHELL:-idirafter ${TURBOFLEET_LIBTORCH}/${dir}")
endforeach()
target_link_libraries(turbofleet_torch INTERFACE
  ${TURBOFLEET_LIBTORCH}/lib/libtorch_cpu.so ${TURBOFLEET_LIBTORCH}/lib/libc10.so)
# libtorch finds its CUDA runtime beside itself by its own RPATH at run time;
# the linker need not resolve it.
target_link_options(turbofleet_torch INTERFACE -Wl,--allow-shlib-undefined
  -Wl,-rpath,${TURBOFLEET_LIBTORCH}/lib)
if(EXISTS ${TURBOFLEET_LIBTORCH}/lib/libtorch_cuda.so)
  # CUDA kernels register themselves when the library is loaded, so it has to be linked although no symbol names it.
  # On a machine without the CUDA wheels it cannot be loaded: opt in.
  option(TURBOFLEET_CUDA "Link libtorch_cuda" OFF)
  if(TURBOFLEET_CUDA)
    target_link_options(turbofleet_torch INTERFACE -Wl,--no-as-needed)
    target_link_libraries(turbofleet_torch INTERFACE
      ${TURBOFLEET_LIBTORCH}/lib/libtorch_cuda.so ${TURBOFLEET_LIBTORCH}/lib/libc10_cuda.so)
  endif()
endif()
