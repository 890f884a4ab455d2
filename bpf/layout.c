/* Not a program: the sizes and offsets as C sees them, for the test that compares them with layout.rs, row by row. */
#include <stddef.h>
#include "maps.h"

#define SIZE(s) sizeof(struct s)
#define AT(s, f) offsetof(struct s, f)

__attribute__((section("layout"), used)) const unsigned int rows[] = {
	SIZE(settings), AT(settings, node), AT(settings, vxlan_ifindex), AT(settings, uplink_ifindex),
	AT(settings, lo_ifindex), AT(settings, vxlan_port),
	SIZE(peer_key), AT(peer_key, addr),
	SIZE(endpoint_key), AT(endpoint_key, addr),
	SIZE(endpoint), AT(endpoint, remote), AT(endpoint, ifindex), AT(endpoint, mac), AT(endpoint, kind),
	AT(endpoint, owner),
	SIZE(link), AT(link, mac), AT(link, ingress), AT(link, netns), AT(link, addrs),
	SIZE(epoch), AT(epoch, paths_until),
	SIZE(path), AT(path, via), AT(path, source), AT(path, mtu), AT(path, port),
	SIZE(front), AT(front, port), AT(front, proto), AT(front, addr),
	SIZE(service), AT(service, vni),
	SIZE(slot), AT(slot, index),
	SIZE(backend), AT(backend, port),
	SIZE(scope), AT(scope, count), AT(scope, vnis), AT(scope, resolver_udp), AT(scope, resolver_tcp),
	SIZE(connected), AT(connected, vip), AT(connected, netns), AT(connected, vni), AT(connected, port),
	AT(connected, proto),
	SIZE(datagram_key), AT(datagram_key, addr), AT(datagram_key, port), AT(datagram_key, direction),
	SIZE(datagram), AT(datagram, serial), AT(datagram, vni),
	SIZE(flow_key), AT(flow_key, node), AT(flow_key, client_port), AT(flow_key, port), AT(flow_key, proto),
	AT(flow_key, shown),
	SIZE(flow), AT(flow, origin), AT(flow, serial), AT(flow, since), AT(flow, closed), AT(flow, ifindex),
	AT(flow, target_port), AT(flow, origin_port), AT(flow, shown_port), AT(flow, state), AT(flow, side),
	SIZE(reply_key), AT(reply_key, client), AT(reply_key, task_port), AT(reply_key, client_port),
	AT(reply_key, proto),
	SIZE(reply), AT(reply, vtep), AT(reply, closed), AT(reply, ifindex), AT(reply, port), AT(reply, client_port),
	AT(reply, state),
	SIZE(remap_key), AT(remap_key, task),
	SIZE(counter), AT(counter, bytes),
	SIZE(net_drop_key), AT(net_drop_key, reason),
	DROP_REASONS, PATHS, SCOPE_VNIS, LINK_ADDRS,
};
