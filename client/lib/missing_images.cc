#include "client/lib/missing_images.h"

#include <map>

namespace turbofleet::client {

MissingImages::MissingImages(size_t prompts, size_t seeds_per_prompt)
    : prompts_(prompts),
      seeds_(seeds_per_prompt),
      missing_(prompts * seeds_per_prompt),
      ended_(prompts * seeds_per_prompt, false) {}

bool MissingImages::End(size_t prompt, size_t seed) {
  const size_t image = prompt * seeds_ + seed;
  if (ended_[image]) return false;
  ended_[image] = true;
  --missing_;
  return true;
}

std::vector<ImageGroup> MissingImages::Groups() const {
  std::vector<ImageGroup> groups;
  std::map<std::vector<size_t>, size_t> group_of_seeds;
  for (size_t prompt = 0; prompt < prompts_; ++prompt) {
    std::vector<size_t> seeds;
    for (size_t seed = 0; seed < seeds_; ++seed) {
      if (!ended_[prompt * seeds_ + seed]) seeds.push_back(seed);
    }
    if (seeds.empty()) continue;
    const auto [position, added] = group_of_seeds.emplace(seeds, groups.size());
    if (added) groups.push_back({.prompts = {}, .seeds = std::move(seeds)});
    groups[position->second].prompts.push_back(prompt);
  }
  return groups;
}

}  // namespace turbofleet::client
