/* ICMP errors about published flows. A router that cannot pass a task's packet tells its source, the entry node: what it
 * says must reach the task, in the task's own terms, or large answers to clients behind a narrow path would never
 * arrive. The other way a task says that nobody listens, and a client must not wait for an answer to its datagrams.
 */
#ifndef MALHA_ICMP_H
#define MALHA_ICMP_H

#include "mesh.h"

#define ICMP_UNREACHABLE 3
#define ICMP_CSUM 2
#define ICMP_HEADER 8

/* The packet that an error is about: towards a task, as the entry node sent it to the client; from a task, as it got it. */
struct icmp_error {
	struct packet about;
	__u32 inner; /* offset of its IP header */
};

/* True for an error about a TCP or UDP packet with a plain header. */
static __always_inline int icmp_parse(struct __sk_buff *skb, struct icmp_error *err)
{
	struct iphdr ip;
	__u16 ports[2];
	__u8 type;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.version != 4 || ip.protocol != IPPROTO_ICMP ||
	    (ip.frag_off & bpf_htons(IP_FRAGMENT)))
		return 0;
	err->inner = ETH_HLEN + ip.ihl * 4 + ICMP_HEADER;
	if (bpf_skb_load_bytes(skb, err->inner - ICMP_HEADER, &type, 1) || type != ICMP_UNREACHABLE ||
	    bpf_skb_load_bytes(skb, err->inner, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl != 5 ||
	    (ip.protocol != IPPROTO_TCP && ip.protocol != IPPROTO_UDP))
		return 0;
	err->about.l4 = err->inner + sizeof(ip);
	if (bpf_skb_load_bytes(skb, err->about.l4, ports, sizeof(ports)))
		return 0;
	err->about.saddr = ip.saddr;
	err->about.daddr = ip.daddr;
	err->about.sport = ports[0];
	err->about.dport = ports[1];
	err->about.proto = ip.protocol;
	return 1;
}

/* A port in the quoted packet. The error's checksum covers it. */
static __always_inline void icmp_port(struct __sk_buff *skb, const struct icmp_error *err, __u32 at, __u16 old, __u16 new)
{
	if (old == new)
		return;
	bpf_l4_csum_replace(skb, err->inner - ICMP_HEADER + ICMP_CSUM, old, new, 2);
	bpf_skb_store_bytes(skb, err->about.l4 + at, &new, 2, 0);
}

/* An address of the quoted packet. Its checksum changes with it, so the error's stays. */
static __always_inline void icmp_quoted(struct __sk_buff *skb, const struct icmp_error *err, __u32 at, __u32 old, __u32 new)
{
	bpf_l3_csum_replace(skb, err->inner + offsetof(struct iphdr, check), old, new, 4);
	bpf_skb_store_bytes(skb, err->inner + at, &new, 4, 0);
}

/* An address of the error itself. */
static __always_inline int icmp_outer(struct __sk_buff *skb, __u32 at, __u32 new)
{
	__u32 old;

	if (bpf_skb_load_bytes(skb, ETH_HLEN + at, &old, 4))
		return 0;
	bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check), old, new, 4);
	bpf_skb_store_bytes(skb, ETH_HLEN + at, &new, 4, 0);
	return 1;
}

/* Hands an error to a task of this node. The quoted packet becomes the one that the task sent. */
static __always_inline int icmp_to_task(struct __sk_buff *skb, struct icmp_error *err, __u32 vni,
					const struct endpoint *e, const struct addr *task, __u16 task_port)
{
	struct packet *about = &err->about;
	__u16 client_port = about->dport;
	struct reply_key key = {};
	struct reply *r;

	key.task = *task;
	key.client = addr4(about->daddr);
	key.task_port = task_port;
	key.client_port = client_port;
	key.proto = about->proto;
	r = reply_of(&key, 0);
	if (!r)
		return drop(skb, vni, DROP_NO_FLOW);
	if (r->node.w[3] != about->saddr || r->port != about->sport) {
		/* The client's port stands for another of its flows here; this one has a stand-in. */
		struct packet p = { .saddr = about->daddr, .daddr = about->saddr, .sport = about->dport,
				    .dport = about->sport, .proto = about->proto };
		client_port = remapped(&p, &key, 0);
		if (!client_port)
			return drop(skb, vni, DROP_NO_FLOW);
	}
	icmp_port(skb, err, 0, about->sport, task_port);
	icmp_port(skb, err, 2, about->dport, client_port);
	icmp_quoted(skb, err, offsetof(struct iphdr, saddr), about->saddr, task->w[3]);
	if (!icmp_outer(skb, offsetof(struct iphdr, daddr), task->w[3]))
		return drop(skb, vni, DROP_MALFORMED);
	count(PATH_TO_TASK, skb->len);
	return into_container(skb, e);
}

/* On the entry node: an error about a flow that entered here. */
static SEPARATE int icmp_enter(struct __sk_buff *skb, struct onward *on)
{
	__u8 macs[12] = { 0x02, 0x42, 0, 0, 0, 0, 0x02, MAC_FORWARD };
	struct icmp_error err = {};
	struct flow_key key = {};
	struct front front = {};
	struct service *service;
	struct endpoint *e;
	struct addr task;
	struct flow *f;
	__u16 port;

	if (!icmp_parse(skb, &err))
		return PASS;
	front.port = err.about.sport;
	front.proto = err.about.proto;
	service = bpf_map_lookup_elem(&services, &front);
	if (!service)
		return PASS;
	key.client = addr4(err.about.daddr);
	key.node = addr4(err.about.saddr);
	key.client_port = err.about.dport;
	key.port = err.about.sport;
	key.proto = err.about.proto;
	f = flow_of(&key);
	if (!f || f->side != SIDE_BOTH)
		return PASS;
	task = f->backend;
	port = f->target_port;
	e = endpoint_of(service->vni, &task);
	if (!e || e->serial != f->serial)
		return PASS;
	if (e->kind == KIND_LOCAL)
		return icmp_to_task(skb, &err, service->vni, e, &task, port);
	__builtin_memcpy(macs + 2, &task.w[3], 4);
	__builtin_memcpy(macs + 8, &port, 2);
	bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0);
	on->vni = service->vni;
	on->remote = e->remote;
	return TO_NODE;
}

/* On the entry node: an error of a task about what a client sent, on its way out. */
static SEPARATE int icmp_leave(struct __sk_buff *skb, __u32 vni)
{
	struct icmp_error err = {};
	struct packet *about = &err.about;
	struct flow_key key = {};
	struct settings *s;
	struct flow *f;
	__u32 zero = 0, origin, ifindex;
	__u16 origin_port;

	s = bpf_map_lookup_elem(&settings, &zero);
	if (!s || !icmp_parse(skb, &err))
		return drop(skb, vni, DROP_MALFORMED);
	key.client = addr4(about->saddr);
	key.node = addr4(about->daddr);
	key.client_port = about->sport;
	key.port = about->dport;
	key.proto = about->proto;
	key.shown = about->saddr == s->node.w[3];
	f = flow_of(&key);
	if (!f)
		return drop(skb, vni, DROP_NO_FLOW);
	origin = f->origin.w[3];
	origin_port = f->origin_port;
	ifindex = f->ifindex;
	icmp_port(skb, &err, 0, about->sport, origin_port);
	icmp_quoted(skb, &err, offsetof(struct iphdr, saddr), about->saddr, origin);
	if (!icmp_outer(skb, offsetof(struct iphdr, daddr), origin))
		return drop(skb, vni, DROP_MALFORMED);
	return mesh_leave(skb, ifindex, s->lo_ifindex);
}

/* An error that a task sends out of its ingress link, about a packet of a recorded flow. What is left to do is its caller's. */
static SEPARATE int icmp_from_task(struct __sk_buff *skb, __u32 vni, struct addr *vtep)
{
	__u8 macs[12] = { 0x02, 0x42, 0, 0, 0, 0, 0x02, MAC_REPLY };
	struct icmp_error err = {};
	struct packet *about = &err.about;
	struct reply_key key = {};
	struct reply *r;
	__u16 port, client_port;
	__u32 node;

	if (!vtep || !icmp_parse(skb, &err))
		return drop(skb, vni, DROP_INGRESS_ISOLATED);
	key.task = addr4(about->daddr);
	key.client = addr4(about->saddr);
	key.task_port = about->dport;
	key.client_port = about->sport;
	key.proto = about->proto;
	r = reply_of(&key, 0);
	if (!r)
		return drop(skb, vni, DROP_INGRESS_ISOLATED);
	*vtep = r->vtep;
	node = r->node.w[3];
	port = r->port;
	client_port = r->client_port;
	count(PATH_FROM_TASK, skb->len);
	icmp_port(skb, &err, 0, about->sport, client_port);
	icmp_port(skb, &err, 2, about->dport, port);
	icmp_quoted(skb, &err, offsetof(struct iphdr, daddr), about->daddr, node);
	if (!icmp_outer(skb, offsetof(struct iphdr, saddr), node))
		return drop(skb, vni, DROP_MALFORMED);
	if (addr_is_zero(vtep))
		return TO_CLIENT;
	bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0);
	return TO_NODE;
}

static __always_inline int icmp_out(struct __sk_buff *skb, __u32 vni)
{
	struct addr vtep = {};
	int found = icmp_from_task(skb, vni, &vtep);

	if (found == TO_CLIENT)
		return icmp_leave(skb, vni);
	return found == TO_NODE ? into_tunnel(skb, vni, &vtep) : found;
}

#endif
