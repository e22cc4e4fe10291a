// PostgreSQL as this project uses it: statuses instead of codes, prepared statements that are kept, and statements that
// travel together.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

struct pg_conn;
struct pg_result;

namespace turbofleet {

// The rows of an answer.
class PostgresRows {
 public:
  explicit PostgresRows(pg_result* result) : result_(result, Free) {}

  int count() const;
  // Of row and column, from 0. Integers of any size, and truth values.
  int64_t Number(int row, int column) const;
  std::string Text(int row, int column) const;  // Or bytes.
  bool IsNull(int row, int column) const;

 private:
  static void Free(pg_result* result);
  std::unique_ptr<pg_result, void (*)(pg_result*)> result_;
};

// The values for $1, $2, ... of a statement.
class PostgresValues {
 public:
  PostgresValues& Number(int64_t number);
  PostgresValues& OptionalNumber(std::optional<int64_t> number);  // Nothing: null.
  PostgresValues& Text(const std::string& text);                  // REQUIRES: UTF-8 without a zero.
  PostgresValues& Bytes(const std::string& bytes);
  PostgresValues& Numbers(const std::vector<int64_t>& numbers);
  PostgresValues& OptionalNumbers(const std::vector<std::optional<int64_t>>& numbers);
  PostgresValues& Texts(const std::vector<std::string>& texts);
  PostgresValues& ByteStrings(const std::vector<std::string>& strings);

 private:
  friend class PostgresConnection;
  PostgresValues& Add(unsigned type, std::optional<std::string> value);

  std::vector<unsigned> types_;
  std::vector<std::optional<std::string>> values_;
};

// A session with the server. Thread-compatible.
//
// Errors: UNAVAILABLE: the server is away, stops, is too slow, or has ended the transaction in favour of another.
// RESOURCE_EXHAUSTED: its disk is full. ABORTED: the statement raised SQLSTATE TF001. DATA_LOSS: its files are broken.
// INTERNAL: anything else. Any error ends the transaction.
class PostgresConnection {
 public:
  // `setup` runs first. Gives up after `timeout`, as each answer later does.
  static absl::StatusOr<std::unique_ptr<PostgresConnection>> Open(const std::string& conninfo, const std::string& setup,
                                                                  absl::Duration timeout);
  ~PostgresConnection();
  PostgresConnection(const PostgresConnection&) = delete;
  PostgresConnection& operator=(const PostgresConnection&) = delete;

  // Lets a statement travel with the next Run(), before it. Its rows do not matter. `sql` is a literal.
  void Queue(const char* sql, const PostgresValues& values = {});
  // Sends what is queued and this one, and waits for its rows: one round trip.
  absl::StatusOr<PostgresRows> Run(const char* sql, const PostgresValues& values = {});
  // Runs statements that are separated by semicolons. REQUIRES: nothing is queued.
  absl::Status Execute(const std::string& sql);
  // Forgets what is queued and was never sent.
  void DropQueued() { queue_.clear(); }

  // After which it has to be closed.
  bool broken() const { return broken_; }

 private:
  struct Statement {
    const char* sql;
    PostgresValues values;
  };

  PostgresConnection(pg_conn* connection, absl::Duration timeout) : connection_(connection), timeout_(timeout) {}
  // Returns how many answers will come.
  absl::StatusOr<int> Send();
  absl::StatusOr<int> SendOne(const Statement& statement);
  // Null at the end of a statement's answer.
  absl::StatusOr<pg_result*> Receive(absl::Time deadline);
  absl::Status WaitForSocket(bool write, absl::Time deadline);
  absl::Status Broken(const std::string& what);

  pg_conn* const connection_;
  const absl::Duration timeout_;
  std::vector<Statement> queue_;
  std::map<std::string, std::string> prepared_;  // Names by SQL.
  std::vector<std::string> unsure_;              // SQL of those that were prepared just now.
  int64_t names_ = 0;
  bool broken_ = false;
};

}  // namespace turbofleet
