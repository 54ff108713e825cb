"""A control plane for the tests: delta ADS with endpoints (EDS), by grpcio and the messages of xds-protos.

    ads_server.py ADDRESS [CERTIFICATE KEY]

ADDRESS is IP:PORT or unix:PATH. A line of JSON on standard input is an order, and each is answered by {"done": N}:

    {"set": {NAME: [{"address": IP, "port": N, "weight": N, "priority": N, "health": NAME}, …]}}   (a port of 0 is wrong)
    {"remove": [NAME, …]}      forget these
    {"end": true}              end all streams in peace
    {"refuse": [CODE, WORDS]}  end streams with that status, now and when they begin; null: no more

Each stream and each request is told in a line of JSON on standard output.
"""

import json
import queue
import sys
import threading
from concurrent import futures

import grpc
from envoy.config.endpoint.v3 import endpoint_components_pb2 as components
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.core.v3 import health_check_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

TYPE = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"

lock = threading.Lock()
resources = {}
version = 0
refusal = None
streams = []


def tell(what):
    with lock:
        print(json.dumps(what), flush=True)


def assignment(name, endpoints):
    whole = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
    for one in endpoints:
        locality = whole.endpoints.add(priority=one.get("priority", 0))
        health = health_check_pb2.HealthStatus.Value(one.get("health", "UNKNOWN"))
        endpoint = locality.lb_endpoints.add(health_status=health)
        endpoint.endpoint.address.socket_address.address = one["address"]
        endpoint.endpoint.address.socket_address.port_value = one["port"]
        if "weight" in one:
            endpoint.load_balancing_weight.value = one["weight"]
    return whole


class Ads(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    def DeltaAggregatedResources(self, requests, context):
        events = queue.Queue()
        streams.append(events)
        metadata = dict(context.invocation_metadata())
        tell({"opened": metadata.get("authorization", "")})
        threading.Thread(target=self.read, args=(requests, events), daemon=True).start()
        known, nonce = {}, 0
        try:
            while True:
                if refusal:
                    context.abort(grpc.StatusCode[refusal[0]], refusal[1])
                event = events.get()
                if event is None:
                    return
                if isinstance(event, discovery_pb2.DeltaDiscoveryRequest):
                    for name in event.resource_names_unsubscribe:
                        known.pop(name, None)
                    for name in event.resource_names_subscribe:
                        known[name] = event.initial_resource_versions.get(name)
                answer = discovery_pb2.DeltaDiscoveryResponse(type_url=TYPE)
                for name, has in list(known.items()):
                    if name in resources:
                        now, endpoints = resources[name]
                        if has != now:
                            item = answer.resources.add(name=name, version=now)
                            item.resource.Pack(assignment(name, endpoints))
                            known[name] = now
                    elif has is not None:
                        answer.removed_resources.append(name)
                        known[name] = None
                if answer.resources or answer.removed_resources:
                    nonce += 1
                    answer.nonce = str(nonce)
                    yield answer
        finally:
            streams.remove(events)

    def read(self, requests, events):
        try:
            for request in requests:
                tell({
                    "node": request.node.id,
                    "zone": request.node.locality.zone,
                    "metadata": dict(request.node.metadata),
                    "type": request.type_url,
                    "subscribe": list(request.resource_names_subscribe),
                    "unsubscribe": list(request.resource_names_unsubscribe),
                    "initial": dict(request.initial_resource_versions),
                    "nonce": request.response_nonce,
                    "error": request.error_detail.message,
                })
                events.put(request)
        except grpc.RpcError:
            pass
        events.put(None)
        tell({"closed": True})


def obey(order):
    global version, refusal
    for name, endpoints in order.get("set", {}).items():
        version += 1
        resources[name] = (str(version), endpoints)
    for name in order.get("remove", []):
        resources.pop(name, None)
    if "refuse" in order:
        refusal = order["refuse"]
    for events in list(streams):
        events.put(None if order.get("end") else "changed")


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(Ads(), server)
    if len(sys.argv) > 2:
        with open(sys.argv[2], "rb") as certificate, open(sys.argv[3], "rb") as key:
            credentials = grpc.ssl_server_credentials([(key.read(), certificate.read())])
        server.add_secure_port(sys.argv[1], credentials)
    else:
        server.add_insecure_port(sys.argv[1])
    server.start()
    tell({"done": 0})
    for number, line in enumerate(sys.stdin, 1):
        obey(json.loads(line))
        tell({"done": number})
    server.stop(0)


main()
