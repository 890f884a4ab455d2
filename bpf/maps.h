/* The maps that the kernel programs and the daemon share: every key, every value, every map.
 *
 * crates/dataplane/src/ebpf/layout.rs says the same in Rust; a test compares sizes and offsets. A change here needs a
 * new LAYOUT_VERSION there, because pinned maps of an older daemon would be read with the wrong eyes.
 *
 * Addresses are always 16 bytes; an IPv4 address is kept as ::ffff:a.b.c.d. Addresses and ports are in network byte
 * order, everything else in the host's. Padding is explicit and zero, since keys are compared as bytes.
 */
#ifndef MALHA_MAPS_H
#define MALHA_MAPS_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

struct addr {
	__u32 w[4];
};

/* ---- what this node is ------------------------------------------------------------------------------------------ */

struct settings {
	struct addr node;    /* shown to tasks in place of clients whose address means something on this node only */
	__u32 vxlan_ifindex; /* the one tunnel device of this node */
	__u32 uplink_ifindex;/* where replies leave whose flow was forgotten */
	__u32 lo_ifindex;
	__u16 vxlan_port;
	__u16 pad;
};

/* ---- networks and endpoints ------------------------------------------------------------------------------------- */

#define NET_INGRESS 1

struct peer_key {
	__u32 vni;
	struct addr addr;
};

struct endpoint_key {
	__u32 vni;
	struct addr addr;
};

enum endpoint_kind {
	KIND_LOCAL = 1,  /* behind `ifindex` of this node */
	KIND_REMOTE = 2, /* behind tunnel endpoint `remote` */
	KIND_GATEWAY = 3,
	KIND_BALANCER = 4,
	KIND_VIP = 5,
};

struct endpoint {
	__u64 serial; /* new for each new owner of the address: state that remembers another serial is stale */
	struct addr remote;
	__u32 ifindex;
	__u8 mac[6];
	__u8 kind;
	__u8 pad;
	__u32 owner; /* the daemon's: which owner that serial is for */
};

#define LINK_ADDRS 4

/* The host side of a container's link. */
struct link {
	__u32 vni;
	__u8 mac[6];
	__u8 ingress;
	__u8 pad;
	__u32 netns; /* of the container, as the node's namespace numbers it, plus one; zero: not known */
	struct addr addrs[LINK_ADDRS]; /* its own addresses, unused ones zero */
};

/* ---- what is not looked up anew for each packet --------------------------------------------------------------------- */

/* Written by the daemon alone. */
struct epoch {
	__u64 generation;  /* new after every change of what a verdict follows from */
	__u64 paths_until; /* monotonic clock: paths that nobody confirms any more are not taken */
};

/* How packets reach another node, as the routes of this one say. */
struct path {
	__u32 ifindex; /* an Ethernet device */
	__u32 via;     /* next hop, IPv4 */
	__u32 source;  /* this node's tunnel address, IPv4 */
	__u16 mtu;
	__u16 port;    /* of the tunnel */
};

#define VERDICTS 1024

/* What was found out about packets of these addresses. Each processor has its own, so nothing is shared. It counts while
 * its generation is that of the epoch: whoever sent another source, or was unplugged since, meets the whole check.
 */
struct verdict {
	__u64 generation;
	__u64 until; /* arrivals: how long they may pass the node's stack by */
	__u64 first; /* arrivals: when the first of those went into the stack that are `ahead` */
	__u64 source_mac;
	__u64 mac;   /* of the container it is for; as its bytes lie, then zero */
	__u32 from;  /* link that it came by; VNI where it came by the tunnel */
	__u32 saddr; /* of the tunnel where it came by it */
	__u32 daddr;
	__u32 to;    /* link of a container here; zero: by the tunnel */
	__u32 vni;
	__u32 remote;
	__u32 netns; /* arrivals: as that of a link */
	__u32 ahead; /* arrivals: segments that are still in the stack */
	struct path path; /* zero: by the kernel's own tunnel. Arrivals: how the other node is reached */
};

/* ---- load balancing: VIPs and published ports ------------------------------------------------------------------- */

/* A VIP has vni and addr, a published port has port and proto; the rest is zero. */
struct front {
	__u32 vni;
	__u16 port;
	__u8 proto;
	__u8 pad;
	struct addr addr;
};

struct service {
	__u32 count; /* backends are in slots 0..count */
	__u32 vni;   /* the network they are on */
};

struct slot {
	struct front front;
	__u32 index;
};

struct backend {
	struct addr addr;
	__u16 port; /* target port; zero behind a VIP */
	__u16 pad;
};

/* ---- socket programs -------------------------------------------------------------------------------------------- */

#define SCOPE_VNIS 128

/* The networks of one network namespace, in the order in which a VIP is searched. */
struct scope {
	struct addr ingress; /* its address on the ingress network, or zero */
	__u32 count;
	__u32 vnis[SCOPE_VNIS];
	__u16 resolver_udp; /* where the resolver listens in truth; zero: where it is asked */
	__u16 resolver_tcp;
};

/* A connected socket whose VIP was translated. Lives as long as the socket. */
struct connected {
	struct addr backend;
	struct addr vip;
	__u64 netns;
	__u32 vni;
	__u16 port;
	__u8 proto;
	__u8 pad;
};

enum direction {
	DIR_FORWARD = 0, /* VIP -> backend */
	DIR_REVERSE = 1, /* backend -> VIP */
};

/* What an unconnected datagram socket last used. */
struct datagram_key {
	__u64 cookie;
	struct addr addr;
	__u16 port;
	__u16 direction;
	__u32 pad;
};

struct datagram {
	struct addr other;
	__u64 serial;
	__u32 vni;
	__u32 pad;
};

/* ---- published flows -------------------------------------------------------------------------------------------- */

#define FLOW_CLIENT_FIN 1
#define FLOW_SERVER_FIN 2
#define FLOW_RESET 4
#define FLOW_BOTH_FIN (FLOW_CLIENT_FIN | FLOW_SERVER_FIN)

/* Flows that ended a moment ago: what a repeated last packet belongs to. It passes and begins nothing. */
#define ENDED 4096

/* Entry node: which backend a client's flow goes to.
 *
 * Clients on loopback and containers behind the egress bridge are shown to tasks as the node: their addresses mean
 * something on this node only. Such a flow has two entries, one by the client as it is and one as it is shown. So has one of
 * the node's own address, which must get a port that none of those has.
 */
struct flow_key {
	struct addr client;
	struct addr node; /* the address the client talks to */
	__u16 client_port;
	__u16 port;
	__u8 proto;
	__u8 shown; /* the client as it is shown: a process of the node that has the same numbers is another */
	__u8 pad[2];
};

enum flow_side {
	SIDE_BOTH = 0,    /* the client is shown as it is */
	SIDE_FORWARD = 1, /* by the client as it is */
	SIDE_RETURN = 2,  /* by the client as it is shown */
	SIDE_FOREIGN = 3, /* no client's: something behind the node connected with a published number as its own port */
};

struct flow {
	struct addr backend;
	struct addr origin; /* the client as it is */
	__u64 serial;       /* of the backend's endpoint */
	__u64 since;
	__u64 closed; /* when a FIN or RST was seen; zero while open */
	__u32 ifindex; /* where the client's packets arrive */
	__u16 target_port;
	__u16 origin_port;
	__u16 shown_port;
	__u8 state;
	__u8 side;
	__u8 pad[4];
};

/* Node of the task: how to undo the translation. */
struct reply_key {
	struct addr task;
	struct addr client;
	__u16 task_port;
	__u16 client_port; /* as the task knows it */
	__u8 proto;
	__u8 pad[3];
};

struct reply {
	struct addr node; /* what the client talks to */
	struct addr vtep; /* entry node's tunnel endpoint; zero when this node is the entry */
	__u64 closed;
	__u32 ifindex; /* entry on this node: where the client's packets arrive */
	__u16 port;
	__u16 client_port; /* as the client knows it */
	__u8 state;
	__u8 pad[7];
};

/* Node of the task: the stand-in for a client port that another flow already has towards this task. */
struct remap_key {
	struct flow_key flow;
	struct addr task;
};

/* A datagram that came in pieces: its ports are in the first one only. */
struct piece_key {
	__u32 saddr, daddr;
	__u16 id;
	__u8 proto;
	__u8 pad;
};

struct piece {
	__u16 sport, dport;
};

#define PIECES 4096

/* ---- counters --------------------------------------------------------------------------------------------------- */

enum drop_reason {
	DROP_NONE = 0,
	DROP_UNKNOWN_LINK = 1,
	DROP_MALFORMED = 2,
	DROP_PROTOCOL = 3,
	DROP_SPOOFED_MAC = 4,
	DROP_SPOOFED_ADDRESS = 5,
	DROP_SPOOFED_ARP = 6,
	DROP_MULTICAST = 7,
	DROP_UNKNOWN_DESTINATION = 8,
	DROP_NOT_A_CONTAINER = 9, /* traffic other than echo to a gateway, balancer or VIP */
	DROP_UNKNOWN_NETWORK = 10,
	DROP_UNKNOWN_PEER = 11,
	DROP_NOT_LOCAL = 12,
	DROP_INGRESS_ISOLATED = 13,
	DROP_NO_FLOW = 14,
	DROP_FRAGMENT = 15,
	DROP_NOT_PUBLISHED = 16,
	DROP_PORTS_EXHAUSTED = 17,
	DROP_TUNNEL = 18,
	DROP_REASONS = 19,
};

enum traffic_path {
	PATH_LOCAL = 0,      /* container to container on this node */
	PATH_TO_TUNNEL = 1,
	PATH_FROM_TUNNEL = 2,
	PATH_ANSWERED = 3,   /* ARP, neighbour solicitation, echo */
	PATH_ENTRY = 4,      /* published port, client to task, on the entry node */
	PATH_TO_TASK = 5,    /* published port, handed to the task's link */
	PATH_FROM_TASK = 6,  /* published port, reply of a task of this node */
	PATH_TO_CLIENT = 7,  /* published port, reply leaves the entry node */
	PATH_CONNECT = 8,    /* connections translated */
	PATH_DATAGRAM = 9,   /* datagrams translated */
	PATH_REFUSED = 10,   /* VIP without a backend, or whose backends have just ended */
	PATHS = 11,
};

struct counter {
	__u64 packets;
	__u64 bytes;
};

struct net_drop_key {
	__u32 vni;
	__u32 reason;
};

/* ---- the maps --------------------------------------------------------------------------------------------------- */

#define MAP(name, kind, k, v, entries, mapflags)         \
	struct {                                         \
		__uint(type, kind);                      \
		__type(key, k);                          \
		__type(value, v);                        \
		__uint(max_entries, entries);            \
		__uint(map_flags, mapflags);             \
		__uint(pinning, LIBBPF_PIN_BY_NAME);     \
	} name SEC(".maps")

MAP(settings, BPF_MAP_TYPE_ARRAY, __u32, struct settings, 1, 0);
MAP(networks, BPF_MAP_TYPE_HASH, __u32, __u32, 65536, BPF_F_NO_PREALLOC);
MAP(peers, BPF_MAP_TYPE_HASH, struct peer_key, __u32, 1048576, BPF_F_NO_PREALLOC);
MAP(endpoints, BPF_MAP_TYPE_HASH, struct endpoint_key, struct endpoint, 1048576, BPF_F_NO_PREALLOC);
MAP(links, BPF_MAP_TYPE_HASH, __u32, struct link, 65536, BPF_F_NO_PREALLOC);
MAP(epochs, BPF_MAP_TYPE_ARRAY, __u32, struct epoch, 1, 0);
MAP(paths, BPF_MAP_TYPE_HASH, struct addr, struct path, 65536, BPF_F_NO_PREALLOC);
MAP(departures, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct verdict, VERDICTS, 0);
MAP(arrivals, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct verdict, VERDICTS, 0);
MAP(services, BPF_MAP_TYPE_HASH, struct front, struct service, 262144, BPF_F_NO_PREALLOC);
MAP(backends, BPF_MAP_TYPE_HASH, struct slot, struct backend, 1048576, BPF_F_NO_PREALLOC);
MAP(cursors, BPF_MAP_TYPE_HASH, struct front, __u64, 262144, BPF_F_NO_PREALLOC);
MAP(scopes, BPF_MAP_TYPE_HASH, __u64, struct scope, 65536, BPF_F_NO_PREALLOC);
MAP(connected, BPF_MAP_TYPE_HASH, __u64, struct connected, 1048576, BPF_F_NO_PREALLOC);
MAP(datagrams, BPF_MAP_TYPE_LRU_HASH, struct datagram_key, struct datagram, 16384, 0);
MAP(node_addrs, BPF_MAP_TYPE_HASH, struct addr, __u32, 1024, BPF_F_NO_PREALLOC);
MAP(flows, BPF_MAP_TYPE_LRU_HASH, struct flow_key, struct flow, 65536, 0);
MAP(opening_flows, BPF_MAP_TYPE_LRU_HASH, struct flow_key, struct flow, 16384, 0);
MAP(udp_flows, BPF_MAP_TYPE_LRU_HASH, struct flow_key, struct flow, 32768, 0);
MAP(ended_flows, BPF_MAP_TYPE_LRU_HASH, struct flow_key, struct flow, ENDED, 0);
MAP(replies, BPF_MAP_TYPE_LRU_HASH, struct reply_key, struct reply, 65536, 0);
MAP(opening_replies, BPF_MAP_TYPE_LRU_HASH, struct reply_key, struct reply, 16384, 0);
MAP(udp_replies, BPF_MAP_TYPE_LRU_HASH, struct reply_key, struct reply, 32768, 0);
MAP(ended_replies, BPF_MAP_TYPE_LRU_HASH, struct reply_key, struct reply, ENDED, 0);
MAP(remaps, BPF_MAP_TYPE_LRU_HASH, struct remap_key, __u16, 8192, 0);
MAP(udp_remaps, BPF_MAP_TYPE_LRU_HASH, struct remap_key, __u16, 4096, 0);
MAP(pieces, BPF_MAP_TYPE_LRU_HASH, struct piece_key, struct piece, PIECES, 0);
MAP(drops, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct counter, DROP_REASONS, 0);
MAP(net_drops, BPF_MAP_TYPE_HASH, struct net_drop_key, __u64, 65536, BPF_F_NO_PREALLOC);
MAP(traffic, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct counter, PATHS, 0);

#endif
