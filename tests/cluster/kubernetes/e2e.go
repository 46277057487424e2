// Package kubernetes pins the versions of the Kubernetes components of the test cluster.
package kubernetes

// The upstream suite is compiled as a test binary, which a tool directive cannot name; importing it keeps its sums in go.sum.
import _ "k8s.io/kubernetes/test/e2e"
