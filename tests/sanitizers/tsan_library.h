// What the definitions that come before those of shared libraries share.
#pragma once

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>

// Of ThreadSanitizer: what was done before the release of an address comes before what is done after its acquire.
extern "C" void __tsan_acquire(void* address);
extern "C" void __tsan_release(void* address);

namespace turbofleet {

// The shared library's definition of a symbol that the program defines itself.
template <typename Function>
Function* Library(const char* symbol) {
  void* const address = dlsym(RTLD_NEXT, symbol);
  if (address == nullptr) {
    std::fprintf(stderr, "%s: in no shared library, which the preset tsan needs\n", symbol);
    std::abort();
  }
  return reinterpret_cast<Function*>(address);
}

}  // namespace turbofleet
