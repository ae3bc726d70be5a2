import BuildProtos

/// Where a plugin tells what happens in its step. Calls wait while the runner is slow to read.
public struct StepEvents: Sendable {
  private let send: @Sendable (PluginV1.StepEvent) -> Void

  /// Output longer than this goes in several messages.
  private static let maximumLogBytes = 256 << 10

  package init(_ send: @escaping @Sendable (PluginV1.StepEvent) -> Void) {
    self.send = send
  }

  /// Adds to the step's log.
  public func log(_ text: String) {
    self.log(Array(text.utf8))
  }

  public func log(_ bytes: [UInt8]) {
    var rest = bytes[...]
    while !rest.isEmpty {
      let part = rest.prefix(Self.maximumLogBytes)
      rest = rest.dropFirst(part.count)
      self.send(PluginV1.StepEvent(event: .log(PluginV1.LogOutput(data: Array(part)))))
    }
  }

  /// Has the runner keep a file of the workspace, by its relative path.
  public func keepArtifact(name: String, path: String) {
    self.send(
      PluginV1.StepEvent(event: .artifact(PluginV1.ArtifactFile(name: name, path: path))))
  }

  /// Sets `steps.<id>.outputs.<name>` for later steps.
  public func setOutput(_ name: String, to value: String) {
    self.send(PluginV1.StepEvent(event: .output(PluginV1.StepOutput(name: name, value: value))))
  }
}
