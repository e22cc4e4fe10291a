// The promises of coordinator/store/job_store.h, one test each. A store's test program names these files and says what
// to run them on: INSTANTIATE_TEST_SUITE_P(Name, JobStoreTest, testing::Values(kind)).
#pragma once

#include <memory>
#include <string>

#include "coordinator/store/job_store.h"
#include "gtest/gtest.h"
#include "tests/coordinator/store/store_backend.h"

namespace turbofleet {

inline std::string NameOfKind(const ::testing::TestParamInfo<StoreKind>& info) { return info.param.name; }

// Of every store.
class JobStoreTest : public ::testing::TestWithParam<StoreKind> {
 protected:
  JobStoreTest() : backend_(GetParam().create()), store_(backend_->Open("anna")) {}

  JobStore& store() { return *store_; }
  // The coordinator dies and starts again.
  void Restart() {
    store_.reset();
    store_ = backend_->Open("anna");
  }

  const std::unique_ptr<StoreBackend> backend_;
  std::unique_ptr<JobStore> store_;
};

// Of stores that several coordinators use at a time.
class SharedJobStoreTest : public JobStoreTest {
 protected:
  SharedJobStoreTest() : other_(backend_->Open("bert")) {}

  JobStore& other() { return *other_; }

  std::unique_ptr<JobStore> other_;
};

}  // namespace turbofleet
