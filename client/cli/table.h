// How commands show what the cluster says.
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "nlohmann/json_fwd.hpp"

namespace turbofleet::cli {

// One line; bytes that are no UTF-8 are replaced.
std::string Dump(const nlohmann::ordered_json& json);

// RFC 3339, in UTC.
std::string TimeText(absl::Time time);

// Columns as wide as they need to be, on standard output. Control characters of the server's text are replaced.
void PrintTable(const std::vector<std::vector<std::string>>& rows);

}  // namespace turbofleet::cli
