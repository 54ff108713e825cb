// A control plane of go-control-plane, with the orders and the words of ads_server.py: set and remove.
//
//	control_plane ADDRESS
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"os"
	"strconv"
	"sync"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// All clients get the same.
type anyNode struct{}

func (anyNode) ID(*core.Node) string { return "all" }

type one struct {
	Address  string `json:"address"`
	Port     uint32 `json:"port"`
	Weight   uint32 `json:"weight"`
	Priority uint32 `json:"priority"`
	Health   string `json:"health"`
}

type order struct {
	Set    map[string][]one `json:"set"`
	Remove []string         `json:"remove"`
}

var output sync.Mutex

func tell(what any) {
	output.Lock()
	defer output.Unlock()
	line, err := json.Marshal(what)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(line))
}

func assignment(name string, endpoints []one) *endpoint.ClusterLoadAssignment {
	whole := &endpoint.ClusterLoadAssignment{ClusterName: name}
	for _, one := range endpoints {
		at := &core.SocketAddress{Address: one.Address, PortSpecifier: &core.SocketAddress_PortValue{PortValue: one.Port}}
		address := &core.Address{Address: &core.Address_SocketAddress{SocketAddress: at}}
		found := &endpoint.LbEndpoint{
			HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{Address: address}},
			HealthStatus:   core.HealthStatus(core.HealthStatus_value[one.Health]),
		}
		if one.Weight != 0 {
			found.LoadBalancingWeight = wrapperspb.UInt32(one.Weight)
		}
		locality := &endpoint.LocalityLbEndpoints{LbEndpoints: []*endpoint.LbEndpoint{found}, Priority: one.Priority}
		whole.Endpoints = append(whole.Endpoints, locality)
	}
	return whole
}

func snapshot(version int, all map[string][]one) (*cache.Snapshot, error) {
	var clusters, endpoints []types.Resource
	for name, known := range all {
		endpoints = append(endpoints, assignment(name, known))
		ads := &core.ConfigSource{ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}}}
		clusters = append(clusters, &cluster.Cluster{
			Name:                 name,
			ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_EDS},
			EdsClusterConfig:     &cluster.Cluster_EdsClusterConfig{EdsConfig: ads},
		})
	}
	return cache.NewSnapshot(strconv.Itoa(version), map[resource.Type][]types.Resource{
		resource.EndpointType: endpoints,
		resource.ClusterType:  clusters,
	})
}

func told(request *discovery.DeltaDiscoveryRequest) map[string]any {
	initial := request.GetInitialResourceVersions()
	if initial == nil {
		initial = map[string]string{}
	}
	names := func(names []string) []string { return append([]string{}, names...) }
	return map[string]any{
		"node":        request.GetNode().GetId(),
		"type":        request.GetTypeUrl(),
		"subscribe":   names(request.GetResourceNamesSubscribe()),
		"unsubscribe": names(request.GetResourceNamesUnsubscribe()),
		"initial":     initial,
		"nonce":       request.GetResponseNonce(),
		"error":       request.GetErrorDetail().GetMessage(),
	}
}

func main() {
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	known := cache.NewSnapshotCache(true, anyNode{}, nil)
	callbacks := server.CallbackFuncs{
		DeltaStreamOpenFunc: func(context.Context, int64, string) error {
			tell(map[string]any{"opened": ""})
			return nil
		},
		StreamDeltaRequestFunc: func(_ int64, request *discovery.DeltaDiscoveryRequest) error {
			tell(told(request))
			return nil
		},
	}
	serving := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(serving, server.NewServer(context.Background(), known, callbacks))
	go func() { log.Fatal(serving.Serve(listener)) }()
	tell(map[string]any{"done": 0})
	all := map[string][]one{}
	orders := bufio.NewScanner(os.Stdin)
	for version := 1; orders.Scan(); version++ {
		var what order
		if err := json.Unmarshal(orders.Bytes(), &what); err != nil {
			log.Fatal(err)
		}
		for name, endpoints := range what.Set {
			all[name] = endpoints
		}
		for _, name := range what.Remove {
			delete(all, name)
		}
		made, err := snapshot(version, all)
		if err == nil {
			err = known.SetSnapshot(context.Background(), "all", made)
		}
		if err != nil {
			log.Fatal(err)
		}
		tell(map[string]any{"done": version})
	}
}
