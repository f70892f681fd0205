// The oracle for containerd 2.x: which hosts its own reader of hosts.toml makes of a certs.d directory.
package main

import (
	"context"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/sirupsen/logrus"

	"registry-mirror-operator/tests/tools/oracles/answer"
)

type question struct {
	Root string
	Host string
}

var capabilities = map[string]docker.HostCapabilities{
	"pull":    docker.HostCapabilityPull,
	"resolve": docker.HostCapabilityResolve,
	"push":    docker.HostCapabilityPush,
}

func main() {
	logrus.SetOutput(&answer.Log)
	logrus.SetFormatter(&logrus.JSONFormatter{})
	answer.Serve(hosts)
}

func hosts(q question) (any, error) {
	options := config.HostOptions{HostDir: config.HostDirFromRoot(q.Root)}
	found, err := config.ConfigureHosts(context.Background(), options)(q.Host)
	if err != nil {
		return nil, err
	}
	result := []answer.Host{}
	for _, host := range found {
		client, err := answer.Describe(host.Client)
		if err != nil {
			return nil, err
		}
		allowed := []string{}
		for _, name := range []string{"pull", "resolve", "push"} {
			if host.Capabilities.Has(capabilities[name]) {
				allowed = append(allowed, name)
			}
		}
		result = append(result, answer.Host{
			Scheme:       host.Scheme,
			Host:         host.Host,
			Path:         host.Path,
			Capabilities: allowed,
			Header:       host.Header,
			Client:       client,
		})
	}
	return result, nil
}
