/* Published ports. A client talks to (node, port) of an entry node; a task on any node answers.
 *
 *   client → entry node             picks the task, remembers it in `flows` (flows.h)
 *          → node of the task       the packet as it came, in the tunnel, task and target port named in the inner MACs
 *          → task                   destination rewritten to the task, undoing remembered in `replies`
 *   task   → entry node → client    source rewritten back on the task's node, through the tunnel to the entry node
 *
 * The client's address stays what it is. Nothing expires by time: entries go when both ends have closed, when the
 * backend's endpoint gets another owner (its serial differs), or under pressure, least recently used first. An acknowledgement
 * may cross the last FIN, and a FIN may come twice: what follows the end is passed on by a copy kept aside.
 *
 * IPv4 only so far; the keys are ready for IPv6, whose task address would need another carrier than the inner MAC.
 */
#ifndef MALHA_MESH_H
#define MALHA_MESH_H

#include "flows.h"
#include "tunnel.h"

/* First two bytes of the inner source MAC tell which way a packet of the ingress network travels. */
#define MAC_FORWARD 0x46
#define MAC_REPLY 0x52
#define MAC_LATE 0x4c /* forward; of a flow that is over */

/* Set on packets that were put into loopback's receive side by us, so that they are not taken for new ones. */
#define MARK_RETURNED 0x4d414c48

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define SYN_REPEATS_NS (60ULL * 1000000000ULL)
#define REMAP_TRIES 16
#define TCP_LISTENING 10
#define LOOPBACK 1 /* its number in every namespace */
#define USUAL_MTU 1450 /* of a container's link */

struct packet {
	__u32 saddr, daddr;
	__u16 sport, dport;
	__u32 l4; /* offset of the transport header; zero where another piece of the datagram has it */
	__u8 proto;
	__u8 tcp_flags;
	__u16 pad;
};

/* Where a packet of a published flow goes on to. Its finder leaves the rest to its caller, whose stack has room for it. */
struct onward {
	struct packet packet;
	struct addr task;
	struct addr remote; /* the tunnel's other end: of the task's node, or of the entry node; zero for this node */
	__u64 mac;          /* of a task here */
	__u32 ifindex;      /* of its link */
	__u32 vni;
	__u16 task_port;
	__u8 late; /* of a flow that is over: remember nothing of it */
	__u8 pad[5];
};

#define TO_TASK 0
#define TO_NODE (-2)
#define TO_CLIENT (-3)
#define ERROR_TO_CLIENT (-4)

/* A piece of a datagram. The first one, which usually comes first, leaves the ports for those that follow. */
static SEPARATE int mesh_piece(struct __sk_buff *skb, struct packet *p)
{
	struct piece_key key = {};
	struct piece *first, ports;
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.protocol != IPPROTO_UDP)
		return DROP_FRAGMENT;
	key.saddr = ip.saddr;
	key.daddr = ip.daddr;
	key.id = ip.id;
	key.proto = ip.protocol;
	if (ip.frag_off & bpf_htons(IP_OFFSET)) {
		first = bpf_map_lookup_elem(&pieces, &key);
		if (!first)
			return DROP_FRAGMENT;
		ports = *first;
		p->l4 = 0;
	} else {
		p->l4 = ETH_HLEN + ip.ihl * 4;
		if (bpf_skb_load_bytes(skb, p->l4, &ports, sizeof(ports)))
			return DROP_MALFORMED;
		bpf_map_update_elem(&pieces, &key, &ports, BPF_ANY);
	}
	p->tcp_flags = 0;
	p->saddr = ip.saddr;
	p->daddr = ip.daddr;
	p->sport = ports.sport;
	p->dport = ports.dport;
	p->proto = ip.protocol;
	return 0;
}

/* Zero, or the reason why the packet cannot belong to a published flow. */
static __always_inline int mesh_parse(struct __sk_buff *skb, struct packet *p)
{
	struct iphdr ip;
	__u16 ports[2];

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.version != 4)
		return DROP_MALFORMED;
	if (ip.protocol != IPPROTO_TCP && ip.protocol != IPPROTO_UDP)
		return DROP_INGRESS_ISOLATED;
	if (ip.frag_off & bpf_htons(IP_FRAGMENT))
		return mesh_piece(skb, p);
	p->l4 = ETH_HLEN + ip.ihl * 4;
	if (bpf_skb_load_bytes(skb, p->l4, ports, sizeof(ports)))
		return DROP_MALFORMED;
	p->tcp_flags = 0;
	if (ip.protocol == IPPROTO_TCP && bpf_skb_load_bytes(skb, p->l4 + 13, &p->tcp_flags, 1))
		return DROP_MALFORMED;
	p->saddr = ip.saddr;
	p->daddr = ip.daddr;
	p->sport = ports[0];
	p->dport = ports[1];
	p->proto = ip.protocol;
	return 0;
}

static __always_inline int opens(const struct packet *p)
{
	return p->proto == IPPROTO_UDP || (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* More of a flow that began before: its client is there and has not given up. */
static __always_inline int goes_on(const struct packet *p)
{
	return !(p->tcp_flags & (TCP_SYN | TCP_RST));
}

static __always_inline int is_loopback(__u32 v4)
{
	return (v4 & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
}

/* Rewrites one side of the packet. Works on segments of any size, checksummed or not yet. */
static __always_inline void rewrite(struct __sk_buff *skb, struct packet *p, int source, __u32 addr, __u16 port)
{
	__u32 old_addr = source ? p->saddr : p->daddr;
	__u16 old_port = source ? p->sport : p->dport;
	__u32 addr_off = ETH_HLEN + (source ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr));
	__u32 port_off = p->l4 + (source ? 0 : 2);
	__u32 sum = p->l4 + (p->proto == IPPROTO_TCP ? offsetof(struct tcphdr, check) : offsetof(struct udphdr, check));
	__u64 flags = p->proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;

	if (addr != old_addr) {
		if (p->l4)
			bpf_l4_csum_replace(skb, sum, old_addr, addr, flags | BPF_F_PSEUDO_HDR | 4);
		bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check), old_addr, addr, 4);
		bpf_skb_store_bytes(skb, addr_off, &addr, 4, 0);
	}
	if (p->l4 && port != old_port) {
		bpf_l4_csum_replace(skb, sum, old_port, port, flags | 2);
		bpf_skb_store_bytes(skb, port_off, &port, 2, 0);
	}
	if (source) {
		p->saddr = addr;
		p->sport = port;
	} else {
		p->daddr = addr;
		p->dport = port;
	}
}

/* Follows closing. True when this was the last packet of the flow. */
static __always_inline int closes(const struct packet *p, __u8 *state, __u64 *closed, int from_client)
{
	__u8 s = *state;

	if (p->proto != IPPROTO_TCP)
		return 0;
	if (!(p->tcp_flags & (TCP_FIN | TCP_RST))) {
		if (!s)
			return 0;
		if ((s & FLOW_BOTH_FIN) == FLOW_BOTH_FIN)
			return 1;
		if (s & FLOW_RESET) { /* the reset was not believed: the flow lives */
			*state = s & ~FLOW_RESET;
			*closed = 0;
		}
		return 0;
	}
	if (p->tcp_flags & TCP_RST)
		s |= FLOW_RESET;
	if (p->tcp_flags & TCP_FIN)
		s |= from_client ? FLOW_CLIENT_FIN : FLOW_SERVER_FIN;
	*state = s;
	*closed = bpf_ktime_get_ns();
	return 0;
}

/* Begins to follow a flow in its middle: what this packet tells of its end. */
static __always_inline void joins(const struct packet *p, __u8 *state, __u64 *closed, int from_client)
{
	if (p->tcp_flags & (TCP_FIN | TCP_RST))
		closes(p, state, closed, from_client);
}

/* One end that closed is no end of the flow: the other may send for as long as it likes. */
static __always_inline int is_over(__u8 state)
{
	return state & FLOW_RESET || (state & FLOW_BOTH_FIN) == FLOW_BOTH_FIN;
}

/* ---- node of the task ------------------------------------------------------------------------------------------- */

/* The client port towards the task when the client's own is taken by its flow to another node or port. */
static __always_inline __u16 remapped(const struct packet *p, struct reply_key *key, int may_add)
{
	void *map = p->proto == IPPROTO_UDP ? (void *)&udp_remaps : (void *)&remaps;
	struct remap_key rk = {};
	__u16 *known, port;
	int i;

	rk.flow.client = key->client;
	rk.flow.node = addr4(p->daddr);
	rk.flow.client_port = p->sport;
	rk.flow.port = p->dport;
	rk.flow.proto = p->proto;
	rk.task = key->task;
	known = bpf_map_lookup_elem(map, &rk);
	if (known)
		return *known;
	if (!may_add)
		return 0;
	for (i = 0; i < REMAP_TRIES; i++) {
		port = bpf_htons(1024 + (bpf_get_prandom_u32() % 64512));
		key->client_port = port;
		if (!reply_of(key, 0)) {
			bpf_map_update_elem(map, &rk, &port, BPF_ANY);
			return port;
		}
	}
	return 0;
}

/* The transmit path drops what is larger than the device allows. Datagrams on loopback may be; those that need not have
 * another way.
 */
static __always_inline int by_transmit(const struct __sk_buff *skb)
{
	return skb->gso_size || skb->len <= ETH_HLEN + USUAL_MTU;
}

/* Hands a client's packet to a task of this node. */
static SEPARATE int mesh_to_task(struct __sk_buff *skb, struct onward *on)
{
	struct packet *p = &on->packet;
	struct reply_key key = {};
	struct reply *r, fresh = {};
	__u16 client_port = p->sport;
	int from_loopback = addr_is_zero(&on->remote) && skb->ifindex == LOOPBACK && by_transmit(skb);
	int last = 0;

	key.task = on->task;
	key.client = addr4(p->saddr);
	key.task_port = on->task_port;
	key.client_port = p->sport;
	key.proto = p->proto;
	r = reply_of(&key, goes_on(p));
	if (r && (r->node.w[3] != p->daddr || r->port != p->dport || r->client_port != p->sport)) {
		if (is_over(r->state) && opens(p)) {
			r = 0;
		} else {
			client_port = remapped(p, &key, !on->late);
			if (!client_port)
				return drop(skb, on->vni, on->late ? DROP_NO_FLOW : DROP_PORTS_EXHAUSTED);
			key.client_port = client_port;
			r = reply_of(&key, goes_on(p));
		}
	}
	if (r && opens(p) && p->proto == IPPROTO_TCP)
		r = 0; /* the same four numbers again: forget how the last connection ended */
	if (r) {
		last = closes(p, &r->state, &r->closed, 1);
		if (!addr_eq(&r->vtep, &on->remote))
			r->vtep = on->remote;
	} else if (!on->late && (opens(p) || !ended_lately(&key))) {
		fresh.node = addr4(p->daddr);
		fresh.vtep = on->remote;
		fresh.ifindex = skb->ifindex;
		fresh.port = p->dport;
		fresh.client_port = p->sport;
		joins(p, &fresh.state, &fresh.closed, 1);
		begin_reply(&key, &fresh);
	}
	if (last)
		end_reply(&key, r);
	rewrite(skb, p, 0, on->task.w[3], on->task_port);
	if (client_port != p->sport)
		rewrite(skb, p, 1, p->saddr, client_port);
	count(PATH_TO_TASK, skb->len);
	if (from_loopback) {
		/* Such a packet still carries its local route, whatever address it is to, and only the transmit path sheds
		 * that on every kernel. */
		bpf_skb_store_bytes(skb, 0, &on->mac, ETH_ALEN, 0);
		return bpf_redirect(on->ifindex, 0);
	}
	return into_link(skb, on->ifindex, on->mac);
}

/* ---- entry node, towards the client ----------------------------------------------------------------------------- */

static __always_inline int mesh_leave(struct __sk_buff *skb, __u32 ifindex, __u32 lo_ifindex)
{
	__u8 none[2 * ETH_ALEN] = {};

	count(PATH_TO_CLIENT, skb->len);
	if (ifindex != lo_ifindex)
		return bpf_redirect_neigh(ifindex, 0, 0, 0);
	bpf_skb_store_bytes(skb, 0, none, sizeof(none), 0);
	skb->mark = MARK_RETURNED;
	return bpf_redirect(ifindex, BPF_F_INGRESS);
}

/* Follows closing in a flow's entry, and in its other one where it has two. `key` is that of `f`, and is changed. */
static __always_inline void mesh_close(const struct packet *p, struct flow_key *key, struct flow *f,
				       const struct addr *other, __u16 other_port, int from_client)
{
	__u8 side = f->side, before = f->state;
	int last = closes(p, &f->state, &f->closed, from_client);

	if (last)
		end_flow(key, f);
	if (side == SIDE_BOTH || (!before && !(p->tcp_flags & (TCP_FIN | TCP_RST))))
		return;
	key->client = *other;
	key->client_port = other_port;
	key->shown = side == SIDE_FORWARD;
	f = flow_of(key);
	if (!f)
		return;
	closes(p, &f->state, &f->closed, from_client);
	if (last)
		end_flow(key, f);
}

/* A reply whose source is a published port of this node again, on its way out. */
static SEPARATE int mesh_reply_at_entry(struct __sk_buff *skb, struct packet *p, __u32 vni)
{
	struct flow_key key = {};
	struct front front = {};
	struct settings *s;
	struct addr origin;
	__u16 origin_port;
	struct flow *f;
	__u32 zero = 0, ifindex;
	int over = 0;

	s = bpf_map_lookup_elem(&settings, &zero);
	key.node = addr4(p->saddr);
	front.port = p->sport;
	front.proto = p->proto;
	if (!s || !bpf_map_lookup_elem(&node_addrs, &key.node) || !bpf_map_lookup_elem(&services, &front))
		return drop(skb, vni, DROP_NOT_PUBLISHED);
	key.client = addr4(p->daddr);
	key.client_port = p->dport;
	key.port = p->sport;
	key.proto = p->proto;
	key.shown = p->daddr == s->node.w[3];
	f = flow_of(&key);
	if (!f) {
		f = ended_flow(&key);
		over = 1;
	}
	if (!f) {
		/* Forgotten under pressure. The uplink is the best guess; loopback clients have no other way back. */
		if (is_loopback(p->saddr) || !s->uplink_ifindex)
			return drop(skb, vni, DROP_NO_FLOW);
		return mesh_leave(skb, s->uplink_ifindex, s->lo_ifindex);
	}
	origin = f->origin;
	origin_port = f->origin_port;
	ifindex = f->ifindex;
	if (p->proto == IPPROTO_TCP && !over)
		mesh_close(p, &key, f, &origin, origin_port, 0);
	rewrite(skb, p, 0, origin.w[3], origin_port);
	return mesh_leave(skb, ifindex, s->lo_ifindex);
}

/* What a task sends out of its ingress link: replies of recorded flows, nothing else. */
static __always_inline int mesh_from_task(struct __sk_buff *skb, __u32 vni)
{
	struct reply_key key = {};
	struct packet p = {};
	struct addr vtep;
	struct reply *r;
	int reason = mesh_parse(skb, &p), over = 0;

	if (reason)
		return drop(skb, vni, reason);
	key.task = addr4(p.saddr);
	key.client = addr4(p.daddr);
	key.task_port = p.sport;
	key.client_port = p.dport;
	key.proto = p.proto;
	r = reply_of(&key, 0);
	if (!r) {
		r = bpf_map_lookup_elem(&ended_replies, &key);
		if (!r || !is_recent(r->closed))
			return drop(skb, vni, DROP_INGRESS_ISOLATED);
		over = 1;
	}
	vtep = r->vtep;
	count(PATH_FROM_TASK, skb->len);
	rewrite(skb, &p, 1, r->node.w[3], r->port);
	if (p.dport != r->client_port)
		rewrite(skb, &p, 0, p.daddr, r->client_port);
	if (!over && closes(&p, &r->state, &r->closed, 0))
		end_reply(&key, r);
	if (addr_is_zero(&vtep))
		return mesh_reply_at_entry(skb, &p, vni);

	__u8 macs[12] = { 0x02, 0x42, 0, 0, 0, 0, 0x02, MAC_REPLY };
	bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0);
	return into_tunnel(skb, vni, &vtep);
}

#endif
