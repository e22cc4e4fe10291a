// Names that nobody can guess.
#pragma once

#include <cstdint>
#include <string>

namespace turbofleet {

// 128 bits from the system's generator, as 32 hex digits.
std::string RandomHex128();

// 32 bits from the system's generator.
uint32_t RandomUint32();

}  // namespace turbofleet
