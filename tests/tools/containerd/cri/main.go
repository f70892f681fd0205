// cri asks a container runtime as the kubelet does, once, and prints the answer as JSON.
//
// Usage: cri SOCKET TIMEOUT METHOD, the request as JSON on standard input. A refusal of the runtime is exit status 1
// with `CODE: MESSAGE` on standard error.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const maximum = 16 << 20 // the kubelet's limit of one answer

type method struct {
	request, answer proto.Message
	path            string
}

var methods = map[string]method{
	"Version":         {&cri.VersionRequest{}, &cri.VersionResponse{}, "RuntimeService"},
	"Status":          {&cri.StatusRequest{}, &cri.StatusResponse{}, "RuntimeService"},
	"ListContainers":  {&cri.ListContainersRequest{}, &cri.ListContainersResponse{}, "RuntimeService"},
	"ListPodSandbox":  {&cri.ListPodSandboxRequest{}, &cri.ListPodSandboxResponse{}, "RuntimeService"},
	"RunPodSandbox":   {&cri.RunPodSandboxRequest{}, &cri.RunPodSandboxResponse{}, "RuntimeService"},
	"StopPodSandbox":  {&cri.StopPodSandboxRequest{}, &cri.StopPodSandboxResponse{}, "RuntimeService"},
	"CreateContainer": {&cri.CreateContainerRequest{}, &cri.CreateContainerResponse{}, "RuntimeService"},
	"StartContainer":  {&cri.StartContainerRequest{}, &cri.StartContainerResponse{}, "RuntimeService"},
	"ListImages":      {&cri.ListImagesRequest{}, &cri.ListImagesResponse{}, "ImageService"},
	"ImageStatus":     {&cri.ImageStatusRequest{}, &cri.ImageStatusResponse{}, "ImageService"},
	"PullImage":       {&cri.PullImageRequest{}, &cri.PullImageResponse{}, "ImageService"},
	"RemoveImage":     {&cri.RemoveImageRequest{}, &cri.RemoveImageResponse{}, "ImageService"},
}

func main() {
	if err := run(); err != nil {
		found := status.Convert(err)
		fmt.Fprintf(os.Stderr, "%s: %s\n", found.Code(), found.Message())
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 4 {
		return fmt.Errorf("usage: cri SOCKET TIMEOUT METHOD")
	}
	wait, err := time.ParseDuration(os.Args[2])
	if err != nil {
		return err
	}
	chosen, known := methods[os.Args[3]]
	if !known {
		return fmt.Errorf("unknown method %s", os.Args[3])
	}
	request, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	if err := protojson.Unmarshal(request, chosen.request); err != nil {
		return err
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maximum)),
	}
	connection, err := grpc.NewClient("unix://"+os.Args[1], options...)
	if err != nil {
		return err
	}
	defer connection.Close()
	limited, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	path := "/runtime.v1." + chosen.path + "/" + os.Args[3]
	if err := connection.Invoke(limited, path, chosen.request, chosen.answer); err != nil {
		return err
	}
	answer, err := protojson.Marshal(chosen.answer)
	if err == nil {
		_, err = os.Stdout.Write(answer)
	}
	return err
}
