// How a fuzz target says that a promise was broken.
#pragma once

#include <cstdio>
#include <cstdlib>

// Ends the program, which is what fuzzers and the replay of a corpus look for.
#define TURBOFLEET_REQUIRE(condition)                                                          \
  do {                                                                                         \
    if (!(condition)) {                                                                        \
      std::fprintf(stderr, "%s:%d: this does not hold: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                            \
    }                                                                                          \
  } while (false)
