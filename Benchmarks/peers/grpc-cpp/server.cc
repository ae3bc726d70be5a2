// gRPC C++'s callback server of echo.Echo: server PORT [CERTIFICATE KEY]
#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>

#include "echo.grpc.pb.h"

class Service final : public echo::Echo::CallbackService {
  grpc::ServerUnaryReactor* Unary(grpc::CallbackServerContext* context, const echo::EchoMsg* request,
                                  echo::EchoMsg* response) override {
    *response = *request;
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  grpc::ServerBidiReactor<echo::EchoMsg, echo::EchoMsg>* Stream(
      grpc::CallbackServerContext*) override {
    class Reactor final : public grpc::ServerBidiReactor<echo::EchoMsg, echo::EchoMsg> {
     public:
      Reactor() { StartRead(&message_); }
      void OnReadDone(bool ok) override {
        if (ok) StartWrite(&message_);
        else Finish(grpc::Status::OK);
      }
      void OnWriteDone(bool ok) override {
        if (ok) StartRead(&message_);
      }
      void OnDone() override { delete this; }

     private:
      echo::EchoMsg message_;
    };
    return new Reactor;
  }
};

static std::string Contents(const char* path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

int main(int count, char** arguments) {
  std::string address = std::string("127.0.0.1:") + arguments[1];
  std::shared_ptr<grpc::ServerCredentials> credentials = grpc::InsecureServerCredentials();
  if (count > 3) {
    grpc::SslServerCredentialsOptions options;
    options.pem_key_cert_pairs.push_back({Contents(arguments[3]), Contents(arguments[2])});
    credentials = grpc::SslServerCredentials(options);
  }
  Service service;
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(16 << 20);
  builder.AddListeningPort(address, credentials);
  builder.RegisterService(&service);
  auto server = builder.BuildAndStart();
  if (server == nullptr) return 1;
  std::printf("listening on %s\n", address.c_str());
  std::fflush(stdout);
  server->Wait();
}
