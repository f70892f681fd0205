package answer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"net"
	"net/http"
	"reflect"
	"runtime"
	"unsafe"
)

// Host is a registry host that containerd would ask, as a test can compare it.
type Host struct {
	Scheme       string      `json:"scheme"`
	Host         string      `json:"host"`
	Path         string      `json:"path"`
	Capabilities []string    `json:"capabilities"`
	Header       http.Header `json:"header"`
	Client
}

// Client is what an HTTP client does beyond the defaults; certificates by the common names of their subjects.
type Client struct {
	CAs          []string `json:"cas"`
	Certificates []string `json:"certificates"`
	SkipVerify   bool     `json:"skip_verify"`
	HTTPFallback bool     `json:"http_fallback"`
	DialTimeout  string   `json:"dial_timeout"`
}

// Describe looks into a client that containerd made.
func Describe(client *http.Client) (Client, error) {
	round := client.Transport
	fallback := false
	transport, ok := round.(*http.Transport)
	if !ok {
		// docker.httpFallback is private, and so is the transport in it.
		inner := reflect.ValueOf(round)
		if inner.Kind() != reflect.Pointer || !inner.Elem().FieldByName("super").IsValid() {
			return Client{}, fmt.Errorf("a transport of an unknown type: %T", round)
		}
		field := inner.Elem().FieldByName("super")
		super := reflect.NewAt(field.Type(), unsafe.Pointer(field.UnsafeAddr())).Elem().Interface()
		if transport, ok = super.(*http.Transport); !ok {
			return Client{}, fmt.Errorf("a transport of an unknown type: %T in %T", super, round)
		}
		fallback = true
	}
	config := transport.TLSClientConfig
	cas, err := added(config.RootCAs)
	if err != nil {
		return Client{}, err
	}
	certificates, err := leaves(config.Certificates)
	if err != nil {
		return Client{}, err
	}
	timeout, err := dialTimeout(transport.DialContext)
	if err != nil {
		return Client{}, err
	}
	return Client{
		CAs:          cas,
		Certificates: certificates,
		SkipVerify:   config.InsecureSkipVerify,
		HTTPFallback: fallback,
		DialTimeout:  timeout,
	}, nil
}

// added names the authorities in a pool that the machine does not trust anyway.
func added(pool *x509.CertPool) ([]string, error) {
	names := []string{}
	if pool == nil {
		return names, nil
	}
	system, err := x509.SystemCertPool()
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, subject := range system.Subjects() {
		known[string(subject)] = true
	}
	for _, subject := range pool.Subjects() {
		if known[string(subject)] {
			continue
		}
		var sequence pkix.RDNSequence
		if _, err := asn1.Unmarshal(subject, &sequence); err != nil {
			return nil, err
		}
		var name pkix.Name
		name.FillFromRDNSequence(&sequence)
		names = append(names, name.CommonName)
	}
	return names, nil
}

func leaves(certificates []tls.Certificate) ([]string, error) {
	names := []string{}
	for _, certificate := range certificates {
		leaf, err := x509.ParseCertificate(certificate.Certificate[0])
		if err != nil {
			return nil, err
		}
		names = append(names, leaf.Subject.CommonName)
	}
	return names, nil
}

// dialTimeout reads the dialer that a bound method holds. Nothing else shows it, short of dialing and waiting.
func dialTimeout(dial func(ctx context.Context, network, address string) (net.Conn, error)) (string, error) {
	if name := runtime.FuncForPC(reflect.ValueOf(dial).Pointer()).Name(); name != "net.(*Dialer).DialContext-fm" {
		return "", fmt.Errorf("connections are made by %s, not by a net.Dialer", name)
	}
	type bound struct {
		_      uintptr
		dialer *net.Dialer
	}
	return (*(**bound)(unsafe.Pointer(&dial))).dialer.Timeout.String(), nil
}
