// The oracle for K3s and RKE2: what their own reader makes of a registries.yaml.
package main

import (
	"github.com/rancher/wharfie/pkg/registries"
	"github.com/sirupsen/logrus"

	"registry-mirror-operator/tests/tools/oracles/answer"
)

type question struct {
	Path string
}

func main() {
	logrus.SetOutput(&answer.Log)
	logrus.SetFormatter(&logrus.JSONFormatter{})
	answer.Serve(func(q question) (any, error) {
		found, err := registries.GetPrivateRegistries(q.Path)
		if err != nil {
			return nil, err
		}
		return found.Registry, nil
	})
}
