// The version of the control plane: `sky`, `sky-controller` and what they say to each other.

package enum ControlVersion {
  package static let text = "0.1.0"
}
