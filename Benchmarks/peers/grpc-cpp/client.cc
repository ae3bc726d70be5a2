// gRPC C++'s completion-queue client of echo.Echo, in a closed loop; the same loads and the same line
// of JSON as rpc-bench:
//   client HOST:PORT unary|stream|flow CONCURRENCY SECONDS [BLOB-BYTES] [AUTHORITY]
#include <grpcpp/grpcpp.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "echo.grpc.pb.h"

using Clock = std::chrono::steady_clock;

struct Measured {
  Clock::time_point warm, end;
  std::vector<uint32_t> latencies;  // tenths of a microsecond
  unsigned long errors = 0;

  void Record(Clock::time_point began, Clock::time_point now) {
    if (now < warm || now >= end) return;
    latencies.push_back(
        std::chrono::duration_cast<std::chrono::nanoseconds>(now - began).count() / 100);
  }
};

struct UnaryCall {
  grpc::ClientContext context;
  echo::EchoMsg response;
  grpc::Status status;
  std::unique_ptr<grpc::ClientAsyncResponseReader<echo::EchoMsg>> reader;
  Clock::time_point began;
};

static void RunUnary(echo::Echo::Stub& stub, const echo::EchoMsg& request, int concurrency,
                     Measured& measured) {
  grpc::CompletionQueue queue;
  int open = 0;
  auto start = [&] {
    auto* call = new UnaryCall;
    call->context.set_wait_for_ready(true);
    call->began = Clock::now();
    call->reader = stub.AsyncUnary(&call->context, request, &queue);
    call->reader->Finish(&call->response, &call->status, call);
    open++;
  };
  for (int i = 0; i < concurrency; i++) start();
  void* tag;
  bool ok;
  while (open > 0 && queue.Next(&tag, &ok)) {
    auto* call = static_cast<UnaryCall*>(tag);
    auto now = Clock::now();
    open--;
    if (call->status.ok() && call->response.id() == request.id()) measured.Record(call->began, now);
    else measured.errors++;
    delete call;
    if (now < measured.end) start();
  }
}

// One stream; its tags are the addresses of the two members.
struct StreamCall {
  grpc::ClientContext context;
  echo::EchoMsg response;
  std::unique_ptr<grpc::ClientAsyncReaderWriter<echo::EchoMsg, echo::EchoMsg>> stream;
  Clock::time_point began;
  struct Tag {
    StreamCall* call;
    bool isRead;
  } read{this, true}, write{this, false};
  bool isStarted = false;
  int pending = 0;
};

static void RunStreams(echo::Echo::Stub& stub, const echo::EchoMsg& request, int concurrency,
                       bool waits, Measured& measured) {
  grpc::CompletionQueue queue;
  std::vector<std::unique_ptr<StreamCall>> calls;
  int open = 0;
  auto write = [&](StreamCall* call) {
    call->began = Clock::now();
    call->pending++;
    call->stream->Write(request, &call->write);
  };
  auto read = [&](StreamCall* call) {
    call->pending++;
    call->stream->Read(&call->response, &call->read);
  };
  for (int i = 0; i < concurrency; i++) {
    calls.push_back(std::make_unique<StreamCall>());
    auto* call = calls.back().get();
    call->context.set_wait_for_ready(true);
    call->pending++;
    call->stream = stub.AsyncStream(&call->context, &queue, &call->write);
    open++;
  }
  void* pointer;
  bool ok;
  while (open > 0 && queue.Next(&pointer, &ok)) {
    auto* tag = static_cast<StreamCall::Tag*>(pointer);
    auto* call = tag->call;
    auto now = Clock::now();
    call->pending--;
    if (!ok || now >= measured.end) {
      if (!ok && now < measured.end) measured.errors++;
      call->context.TryCancel();
      if (call->pending == 0) open--;
      continue;
    }
    if (!call->isStarted) {
      call->isStarted = true;
      write(call);
      if (!waits) read(call);
    } else if (tag->isRead) {
      measured.Record(waits ? call->began : now, now);
      if (waits) write(call);
      else read(call);
    } else {
      if (waits) read(call);
      else write(call);
    }
  }
}

int main(int count, char** arguments) {
  if (count < 5) {
    std::fprintf(stderr, "usage: client HOST:PORT unary|stream|flow CONCURRENCY SECONDS [BLOB] [AUTHORITY]\n");
    return 2;
  }
  std::string load = arguments[2];
  int concurrency = std::atoi(arguments[3]);
  double seconds = std::atof(arguments[4]);
  grpc::ChannelArguments options;
  options.SetMaxReceiveMessageSize(16 << 20);
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  if (count > 6) {
    std::ifstream file(arguments[6]);
    std::ostringstream text;
    text << file.rdbuf();
    credentials = grpc::SslCredentials({text.str(), "", ""});
    options.SetSslTargetNameOverride("localhost");
  }
  auto stub = echo::Echo::NewStub(grpc::CreateCustomChannel(arguments[1], credentials, options));
  echo::EchoMsg request;
  request.set_id(123456789);
  request.set_name("a fairly ordinary name of forty bytes....");
  request.set_score(3.25);
  request.set_flag(true);
  for (int i = 1; i <= 8; i++) request.add_values(i * 100);
  request.set_blob(std::string(count > 5 ? std::atoi(arguments[5]) : 16, 'b'));

  Measured measured;
  measured.latencies.reserve(4000000);
  measured.warm = Clock::now() + std::chrono::seconds(1);
  measured.end = measured.warm + std::chrono::milliseconds(static_cast<int>(seconds * 1000));
  if (load == "unary") RunUnary(*stub, request, concurrency, measured);
  else RunStreams(*stub, request, concurrency, load == "stream", measured);

  auto& sorted = measured.latencies;
  std::sort(sorted.begin(), sorted.end());
  auto quantile = [&](double share) {
    return sorted.empty() ? 0.0
                          : sorted[std::min(sorted.size() - 1, size_t(share * sorted.size()))] / 10.0;
  };
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  double cpu = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
               (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
  std::printf(
      "{\"mode\":\"%s\",\"conc\":%d,\"bytes\":%zu,\"rps\":%.0f,\"p50_us\":%.1f,\"p99_us\":%.1f,"
      "\"errs\":%lu,\"cli_cpu_s\":%.2f}\n",
      load.c_str(), concurrency, request.ByteSizeLong(), sorted.size() / seconds, quantile(0.5),
      quantile(0.99), measured.errors, cpu);
  std::fflush(stdout);
  _exit(0);
}
