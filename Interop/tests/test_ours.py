"""gRPC's interoperability cases between our own client and server."""

from conftest import our_server, run_our_client


def test_our_client_against_our_server(tls):
    with our_server(tls) as address:
        run_our_client(address.rsplit(":", 1)[-1], tls, "--soak_iterations", "100")
