import Crypto
import CryptoExtras
import DatastoreGatewayCore
import Domain
import NIOHTTP1
import ServiceRuntime

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// Where access tokens for Google's services come from.
struct TokenSource: Sendable {
  /// Who the gateway is to Google.
  enum Identity: Sendable {
    /// A key of a service account's: it signs an assertion (RFC 7523).
    case serviceAccount(ServiceAccountKey)
    /// A user who has logged in (RFC 6749, section 6).
    case authorizedUser(AuthorizedUser)
    /// Whom the machine runs as: its metadata server knows.
    case machine(host: String)
  }

  struct ServiceAccountKey: Sendable {
    var email: String
    var keyID: String
    var key: _RSA.Signing.PrivateKey
    var tokenAddress: HTTPAddress
  }

  struct AuthorizedUser: Sendable {
    var clientID: String
    var clientSecret: String
    var refreshToken: String
    var tokenAddress: HTTPAddress
    /// The project that calls are counted for.
    var quotaProject: String?
  }

  struct Token: Sendable {
    var text: String
    var lifetime: Duration
  }

  /// Why there is no token.
  struct Failure: Error, Hashable, CustomStringConvertible {
    /// Whether the server knows the gateway and will not have it: then trying again helps nothing.
    var isRefusal: Bool
    var description: String
  }

  let identity: Identity
  let http: HTTPExchange
  var clock: @Sendable () -> Timestamp = { .now }

  private static let scope = "https://www.googleapis.com/auth/datastore"
  /// Google takes no assertion of a longer life.
  private static let assertionLife: Int64 = 3_600
  /// One attempt, and further ones while the server does not answer or says that it cannot.
  private static let attempts = 3

  // MARK: - Fetching

  func fetch() async throws(Failure) -> Token {
    let request = try self.request()
    var attempt = 1
    while true {
      do throws(Failure) {
        return try await self.fetch(request)
      } catch {
        if error.isRefusal || attempt == Self.attempts { throw error }
        attempt += 1
      }
    }
  }

  private func request() throws(Failure) -> HTTPExchange.Request {
    switch self.identity {
    case .serviceAccount(let key):
      return Self.form(
        key.tokenAddress,
        [
          ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
          ("assertion", try self.assertion(key)),
        ])
    case .authorizedUser(let user):
      return Self.form(
        user.tokenAddress,
        [
          ("grant_type", "refresh_token"), ("client_id", user.clientID),
          ("client_secret", user.clientSecret), ("refresh_token", user.refreshToken),
        ])
    case .machine(let host):
      let text = "http://\(host)/computeMetadata/v1/instance/service-accounts/default/token"
      guard let address = HTTPAddress(text) else {
        throw Failure(isRefusal: true, description: "GCE_METADATA_HOST is no address: \(host)")
      }
      return HTTPExchange.Request(
        method: .GET, address: address, headers: [("metadata-flavor", "Google")])
    }
  }

  private static func form(
    _ address: HTTPAddress, _ fields: [(String, String)]
  ) -> HTTPExchange.Request {
    HTTPExchange.Request(
      method: .POST, address: address,
      headers: [("content-type", "application/x-www-form-urlencoded")],
      body: Array(
        fields.map { "\($0.0)=\($0.1.percentEncoded)" }.joined(separator: "&").utf8))
  }

  private func assertion(_ key: ServiceAccountKey) throws(Failure) -> String {
    struct Header: Encodable {
      var alg = "RS256"
      var typ = "JWT"
      var kid: String
    }
    struct Claims: Encodable {
      var iss: String
      var scope: String
      var aud: String
      var iat: Int64
      var exp: Int64
    }
    let now = self.clock().microseconds / 1_000_000
    do {
      let encoder = JSONEncoder()
      let header = try encoder.encode(Header(kid: key.keyID))
      let claims = try encoder.encode(
        Claims(
          iss: key.email, scope: Self.scope, aud: "\(key.tokenAddress)", iat: now,
          exp: now + Self.assertionLife))
      let text = "\(header.base64URL).\(claims.base64URL)"
      // RS256 is PKCS#1 v1.5 over SHA-256 (RFC 7518, section 3.3).
      let signature = try key.key.signature(
        for: SHA256.hash(data: Data(text.utf8)), padding: .insecurePKCS1v1_5)
      return "\(text).\(signature.rawRepresentation.base64URL)"
    } catch {
      throw Failure(
        isRefusal: true, description: "the key of \(key.email) cannot sign: \(error)")
    }
  }

  private func fetch(_ request: HTTPExchange.Request) async throws(Failure) -> Token {
    let answer: HTTPExchange.Answer
    do throws(HTTPExchange.Failure) {
      answer = try await self.http.run(request)
    } catch {
      throw Failure(isRefusal: false, description: "\(self.identity): \(error)")
    }
    guard answer.status == 200 else {
      struct Refusal: Decodable {
        var error: String
        var errorDescription: String?
      }
      let refusal = try? JSONDecoder.ofSnakeCase.decode(Refusal.self, from: Data(answer.body))
      let why =
        refusal.map { "\($0.error)\($0.errorDescription.map { ": \($0)" } ?? "")" }
        ?? "no reason is given"
      throw Failure(
        isRefusal: (400..<500).contains(answer.status) && ![408, 429].contains(answer.status),
        description:
          "\(self.identity): \(request.address) gives no token: status \(answer.status), \(why)")
    }
    struct Grant: Decodable {
      var accessToken: String
      var expiresIn: Int64?
    }
    guard let grant = try? JSONDecoder.ofSnakeCase.decode(Grant.self, from: Data(answer.body)),
      !grant.accessToken.isEmpty,
      grant.accessToken.utf8.allSatisfy({ (0x21...0x7E).contains($0) })
    else {
      throw Failure(
        isRefusal: false,
        description: "\(self.identity): the answer of \(request.address) has no token in it")
    }
    // RFC 6749, section 5.1, leaves a life that is not told to others; Google always tells it.
    return Token(
      text: grant.accessToken,
      lifetime: .seconds(min(max(grant.expiresIn ?? 300, 0), 86_400)))
  }
}

extension TokenSource.Identity: CustomStringConvertible {
  /// In the middle of a sentence.
  var description: String {
    switch self {
    case .serviceAccount(let key): "service account \(key.email)"
    case .authorizedUser: "the logged-in user"
    case .machine: "the machine's service account"
    }
  }

  /// Finds out who the gateway is, as Google's libraries do: the file that is named, then
  /// `GOOGLE_APPLICATION_CREDENTIALS`, then the file that `gcloud auth application-default login`
  /// writes, then the metadata server.
  ///
  /// - Throws: A file cannot be read, or is none of these.
  static func find(
    file: String?, environment: [String: String]
  ) throws(TokenSource.Failure) -> Self {
    let named = file ?? environment["GOOGLE_APPLICATION_CREDENTIALS"].flatMap { $0.nonEmpty }
    if let named { return try Self.read(named) }
    let home = environment["CLOUDSDK_CONFIG"] ?? environment["HOME"].map { "\($0)/.config/gcloud" }
    if let path = home.map({ "\($0)/application_default_credentials.json" }),
      FileManager.default.fileExists(atPath: path)
    {
      return try Self.read(path)
    }
    return .machine(
      host: environment["GCE_METADATA_HOST"].flatMap { $0.nonEmpty } ?? "metadata.google.internal")
  }

  private struct File: Decodable {
    var type: String?
    var clientEmail: String?
    var privateKey: String?
    var privateKeyId: String?
    var tokenUri: String?
    var clientId: String?
    var clientSecret: String?
    var refreshToken: String?
    var quotaProjectId: String?
  }

  private static let tokenAddress = "https://oauth2.googleapis.com/token"

  private static func read(_ path: String) throws(TokenSource.Failure) -> Self {
    func wrong(_ what: String) -> TokenSource.Failure {
      TokenSource.Failure(isRefusal: true, description: "credentials \(path): \(what)")
    }
    func needed(_ value: String?, _ name: String) throws(TokenSource.Failure) -> String {
      guard let value, !value.isEmpty else { throw wrong("\(name) is missing") }
      return value
    }
    guard let data = FileManager.default.contents(atPath: path) else {
      throw wrong("the file cannot be read")
    }
    guard let file = try? JSONDecoder.ofSnakeCase.decode(File.self, from: data) else {
      throw wrong("this is no JSON of credentials")
    }
    let addressText = file.tokenUri ?? Self.tokenAddress
    guard let tokenAddress = HTTPAddress(addressText) else {
      throw wrong("token_uri is no address: \(addressText)")
    }
    // What goes there is a secret.
    guard tokenAddress.isSecure || ["127.0.0.1", "localhost"].contains(tokenAddress.host) else {
      throw wrong("token_uri is not https: \(addressText)")
    }
    switch file.type {
    case "service_account":
      let pem = try needed(file.privateKey, "private_key")
      let key: _RSA.Signing.PrivateKey
      do {
        key = try _RSA.Signing.PrivateKey(pemRepresentation: pem)
      } catch {
        // What the file has of a key is nobody's business.
        throw wrong("private_key is no RSA key in PEM of 2048 bits or more")
      }
      return .serviceAccount(
        TokenSource.ServiceAccountKey(
          email: try needed(file.clientEmail, "client_email"), keyID: file.privateKeyId ?? "",
          key: key, tokenAddress: tokenAddress))
    case "authorized_user":
      return .authorizedUser(
        TokenSource.AuthorizedUser(
          clientID: try needed(file.clientId, "client_id"),
          clientSecret: try needed(file.clientSecret, "client_secret"),
          refreshToken: try needed(file.refreshToken, "refresh_token"),
          tokenAddress: tokenAddress, quotaProject: file.quotaProjectId))
    case let type:
      throw wrong(
        "type \"\(type ?? "")\" is not supported: expected service_account or authorized_user")
    }
  }
}

extension String {
  fileprivate var nonEmpty: String? { self.isEmpty ? nil : self }

  /// For forms, and for parameters in headers: what is not unreserved (RFC 3986, section 2.3) is encoded.
  var percentEncoded: String {
    var text = ""
    for byte in self.utf8 {
      switch byte {
      case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, 0x2D, 0x2E, 0x5F, 0x7E:
        text.unicodeScalars.append(Unicode.Scalar(byte))
      default:
        text += "%" + (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: true)
      }
    }
    return text
  }
}

extension JSONDecoder {
  /// For fields as Google names them: `access_token`.
  fileprivate static var ofSnakeCase: JSONDecoder {
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    return decoder
  }
}

extension Data {
  /// Without padding, as RFC 7515 has it.
  fileprivate var base64URL: String {
    self.base64EncodedString().replacing("+", with: "-").replacing("/", with: "_")
      .replacing("=", with: "")
  }
}
