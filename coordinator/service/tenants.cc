#include "coordinator/service/tenants.h"

#include <algorithm>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/errors.h"

namespace turbofleet {
namespace {

constexpr size_t kTenantBytesMax = 63;

bool IsTenant(std::string_view name) {
  const auto allowed = [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
  };
  return !name.empty() && name.size() <= kTenantBytesMax && std::all_of(name.begin(), name.end(), allowed);
}

}  // namespace

absl::StatusOr<std::string> Tenants::Of(const grpc::CallbackServerContext& context) const {
  if (metadata_key_.empty()) return kDefaultTenant;
  const auto [first, last] = context.client_metadata().equal_range(metadata_key_);
  if (first == last) return kDefaultTenant;
  std::string name(first->second.data(), first->second.size());
  if (std::next(first) != last || !IsTenant(name)) {
    return MakeError(absl::StatusCode::kInvalidArgument, "INVALID_TENANT",
                     absl::StrCat("metadata ", metadata_key_, ": must be one name of 1 to ", kTenantBytesMax,
                                  " characters of [A-Za-z0-9._-]"));
  }
  return name;
}

}  // namespace turbofleet
