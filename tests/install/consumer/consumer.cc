// Draws two pictures on the cluster at HOST:PORT and prints their seeds and digests; ends with 1 and the error's code,
// reason and fields if that fails.
#include <iostream>
#include <string>

#include "turbofleet/client.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: consumer HOST:PORT STEPS\n";
    return 2;
  }
  absl::StatusOr<turbofleet::Client> client =
      turbofleet::Client::Connect({.coordinator = argv[1], .retry = {.connect_attempts_max = 1}});
  absl::Status status = client.status();
  if (status.ok()) {
    status = client->GenerateImages({.prompts = {"a fox"}, .seed = 7, .count = 2, .steps = std::stoi(argv[2])}, {},
                                    [](const turbofleet::client::GenerateEvent& event) {
                                      const auto* image = std::get_if<turbofleet::client::Image>(&event);
                                      if (image != nullptr)
                                        std::cout << image->seed << " " << image->pixel_sha256 << "\n";
                                    });
  }
  if (status.ok()) return 0;
  std::cout << absl::StatusCodeToString(status.code()) << " " << turbofleet::ReasonOf(status);
  for (const std::string& field : turbofleet::client::BadFieldsOf(status)) std::cout << " " << field;
  std::cout << "\n";
  return 1;
}
