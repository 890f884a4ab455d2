/* The node's own devices, on receive: uplinks, the bridge of the containers' egress, and loopback.
 *
 * A packet to a published port of one of the node's addresses goes to a task. Whatever is not that, is not ours: it
 * passes. So does a packet of a flow whose task is gone, and the kernel answers it with a reset, as it would for any
 * port that nobody listens on.
 */
#include "arrival.h"
#include "backends.h"
#include "icmp.h"

#define VLAN_ID 0xfff

/* A socket of this node that happens to use a published number as its own port keeps its packets. */
static __always_inline int socket_of_node(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_sock_tuple t = {};
	struct bpf_sock *sk;
	int mine;

	t.ipv4.saddr = p->saddr;
	t.ipv4.daddr = p->daddr;
	t.ipv4.sport = p->sport;
	t.ipv4.dport = p->dport;
	if (p->proto == IPPROTO_TCP) {
		sk = bpf_skc_lookup_tcp(skb, &t, sizeof(t.ipv4), BPF_F_CURRENT_NETNS, 0);
		if (!sk)
			return 0;
		mine = sk->state != TCP_LISTENING;
	} else {
		sk = bpf_sk_lookup_udp(skb, &t, sizeof(t.ipv4), BPF_F_CURRENT_NETNS, 0);
		if (!sk)
			return 0;
		mine = sk->dst_port != 0;
	}
	bpf_sk_release(sk);
	return mine;
}

/* New flows go round; a flow in the middle whose state was lost gets what a hash says, the same on every packet. */
static __always_inline int pick(struct front *front, struct service *service, const struct packet *p, struct backend *b)
{
	__u32 hash = ((__u32)p->sport * 40503u) ^ p->saddr ^ (p->saddr >> 16);

	if (!service->count)
		return 0;
	return backend_at(front, opens(p) ? next_turn(front, service->count) : hash % service->count, b);
}

static __always_inline int is_reachable(const struct endpoint *e)
{
	return e && (e->kind == KIND_LOCAL || e->kind == KIND_REMOTE);
}

static __always_inline int to_backend(struct __sk_buff *skb, __u32 vni, struct endpoint *e, struct onward *on)
{
	__u8 macs[12] = { 0x02, 0x42, 0, 0, 0, 0, 0x02, MAC_FORWARD };

	count(PATH_ENTRY, skb->len);
	on->vni = vni;
	if (e->kind == KIND_LOCAL) {
		on->mac = mac_at(e->mac);
		on->ifindex = e->ifindex;
		return TO_TASK;
	}
	if (on->late)
		macs[7] = MAC_LATE;
	__builtin_memcpy(macs + 2, &on->task.w[3], 4);
	__builtin_memcpy(macs + 8, &on->task_port, 2);
	bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0);
	on->remote = e->remote;
	return TO_NODE;
}

/* Finds a port of the node under which no other client is shown, and enters the flow there for its replies. */
static __always_inline int show_as_node(struct flow_key *key, struct flow *f, const struct addr *node)
{
	__u16 client_port = key->client_port;
	struct addr client = key->client;
	int i, found = 0;

	key->client = *node;
	key->shown = 1;
	for (i = 0; i < REMAP_TRIES; i++) {
		if (!flow_of(key)) {
			found = 1;
			break;
		}
		key->client_port = bpf_htons(1024 + (bpf_get_prandom_u32() % 64512));
	}
	if (found) {
		f->side = SIDE_RETURN;
		begin_flow(key, f);
		f->side = SIDE_FORWARD;
		f->shown_port = key->client_port;
	}
	key->client = client;
	key->client_port = client_port;
	key->shown = 0;
	return found;
}

static __noinline void forget(const struct flow_key *key, const struct flow *f, const struct addr *node)
{
	struct flow_key shown;
	__u8 side = f->side;

	shown_key(&shown, key, f, node);
	remove_flow(key);
	if (side == SIDE_FORWARD)
		remove_flow(&shown);
}

static __noinline int choose(struct __sk_buff *skb, int from_bridge, struct onward *on)
{
	struct flow_key key = {};
	struct flow *f, fresh = {};
	struct front front = {};
	struct service *service;
	struct settings *s;
	struct endpoint *e = 0;
	struct packet *p = &on->packet;
	struct backend b;
	__u32 zero = 0;
	__u16 shown_port;
	__u8 side, before;

	if (skb->protocol != bpf_htons(ETH_P_IP) || mesh_parse(skb, p))
		return PASS;
	s = bpf_map_lookup_elem(&settings, &zero);
	if (!s || (p->proto == IPPROTO_UDP && p->dport == s->vxlan_port))
		return PASS;
	front.port = p->dport;
	front.proto = p->proto;
	service = bpf_map_lookup_elem(&services, &front);
	if (!service)
		return PASS;
	key.node = addr4(p->daddr);
	if (!bpf_map_lookup_elem(&node_addrs, &key.node))
		return PASS;
	key.client = addr4(p->saddr);
	key.client_port = p->sport;
	key.port = p->dport;
	key.proto = p->proto;

	f = client_flow(&key, &s->node, goes_on(p));
	if (!f && p->proto == IPPROTO_TCP && !opens(p)) {
		f = ended_flow(&key);
		on->late = f || p->tcp_flags & TCP_RST;
	}
	if (f && f->side == SIDE_BOTH && from_bridge)
		return PASS; /* a container that forged its source: its own flows are others */
	if (f && f->side == SIDE_FOREIGN && !opens(p)) {
		closes(p, &f->state, &f->closed, 1);
		return PASS;
	}
	if (f) {
		on->task = f->backend;
		e = endpoint_of(service->vni, &on->task);
		if (!is_reachable(e) || e->serial != f->serial) {
			if (!on->late)
				forget(&key, f, &s->node);
			if (!opens(p))
				return PASS;
			f = 0;
		} else if (p->proto == IPPROTO_TCP && opens(p) &&
			   (f->closed || bpf_ktime_get_ns() - f->since > SYN_REPEATS_NS)) {
			forget(&key, f, &s->node); /* the same four numbers for a new connection */
			f = 0;
		}
	}
	if (f) {
		on->task_port = f->target_port;
		side = f->side;
		shown_port = f->shown_port;
		if (side == SIDE_BOTH && f->ifindex != skb->ifindex)
			f->ifindex = skb->ifindex; /* replies leave by the way that the client's packets come */
		/* Another processor may have seen more of the end, and the task's node have forgotten it already. */
		before = f->state;
		if (p->proto == IPPROTO_TCP && !on->late)
			mesh_close(p, &key, f, &s->node, shown_port, 1);
		if ((before & FLOW_BOTH_FIN) == FLOW_BOTH_FIN)
			on->late = 1;
	} else {
		if ((p->proto == IPPROTO_UDP || !opens(p)) && socket_of_node(skb, p))
			return PASS;
		if (p->tcp_flags & TCP_SYN && !opens(p)) {
			/* It answers a connection that is masqueraded here. No client of ours begins like this. */
			fresh.side = SIDE_FOREIGN;
			fresh.origin = key.client;
			fresh.origin_port = p->sport;
			fresh.ifindex = skb->ifindex;
			begin_flow(&key, &fresh);
			return PASS;
		}
		if (!pick(&front, service, p, &b))
			return PASS;
		on->task = b.addr;
		on->task_port = b.port;
		e = endpoint_of(service->vni, &on->task);
		if (!is_reachable(e))
			return PASS;
		fresh.backend = on->task;
		fresh.origin = key.client;
		fresh.serial = e->serial;
		fresh.since = bpf_ktime_get_ns();
		fresh.ifindex = skb->ifindex;
		fresh.target_port = on->task_port;
		fresh.origin_port = p->sport;
		joins(p, &fresh.state, &fresh.closed, 1);
		if (from_bridge || is_loopback(p->daddr) || p->saddr == s->node.w[3]) {
			if (on->late)
				return PASS; /* shown as whom, nobody knows any more */
			if (!show_as_node(&key, &fresh, &s->node))
				return drop(skb, service->vni, DROP_PORTS_EXHAUSTED);
		}
		side = fresh.side;
		shown_port = fresh.shown_port;
		if (!on->late)
			begin_flow(&key, &fresh);
	}
	if (side == SIDE_FORWARD)
		rewrite(skb, p, 1, s->node.w[3], shown_port);
	return to_backend(skb, service->vni, e, on);
}

static __always_inline int go_on(struct __sk_buff *skb, int found, struct onward *on)
{
	if (found == TO_NODE)
		return into_tunnel(skb, on->vni, &on->remote);
	return found == TO_TASK ? mesh_to_task(skb, on) : found;
}

static __always_inline int enter(struct __sk_buff *skb, int from_bridge)
{
	struct onward on = {};

	return go_on(skb, choose(skb, from_bridge, &on), &on);
}

/* Most of what an uplink gets on a busy node: seen here at a glance, `enter` would tell as well. */
static __always_inline int is_tunnelled(struct __sk_buff *skb)
{
	struct iphdr *ip = (void *)(long)skb->data + ETH_HLEN;
	struct udphdr *udp = (void *)(ip + 1);
	struct settings *s;
	__u32 zero = 0;

	if ((void *)(udp + 1) > (void *)(long)skb->data_end || skb->protocol != bpf_htons(ETH_P_IP) ||
	    ip->protocol != IPPROTO_UDP || ip->ihl != sizeof(*ip) / 4)
		return 0;
	s = bpf_map_lookup_elem(&settings, &zero);
	return s && udp->dest == s->vxlan_port;
}

SEC("classifier")
int entry(struct __sk_buff *skb)
{
	struct iphdr *ip = (void *)(long)skb->data + ETH_HLEN;
	struct onward on = {}; /* one for both ways: kernels before 6.8 count the stack of all that call each other */
	int found;

	if (is_tunnelled(skb))
		return short_way(skb);
	if (skb->vlan_present && skb->vlan_tci & VLAN_ID)
		return PASS; /* it comes again, without the tag, by the VLAN's own device */
	if (skb->protocol == bpf_htons(ETH_P_IP) && (void *)(ip + 1) <= (void *)(long)skb->data_end &&
	    ip->protocol == IPPROTO_ICMP)
		found = icmp_enter(skb, &on);
	else
		found = choose(skb, 0, &on);
	return go_on(skb, found, &on);
}

SEC("classifier")
int entry_bridge(struct __sk_buff *skb)
{
	return enter(skb, 1);
}

SEC("classifier")
int entry_lo(struct __sk_buff *skb)
{
	if (skb->mark == MARK_RETURNED) {
		skb->mark = 0;
		return PASS;
	}
	return enter(skb, 0);
}

char LICENSE[] SEC("license") = "Apache-2.0";
