/* ICMP errors about published flows. A router that cannot pass a task's packet tells its source, the entry node: what it
 * says must reach the task, in the task's own terms, or large answers to clients behind a narrow path would never
 * arrive.
 */
#ifndef MALHA_ICMP_H
#define MALHA_ICMP_H

#include "mesh.h"

#define ICMP_UNREACHABLE 3
#define ICMP_CSUM 2
#define ICMP_HEADER 8

/* The packet that an error is about, as the entry node sent it: from the published port to the client. */
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

/* Hands an error to a task of this node. The quoted packet becomes the one that the task sent. */
static __always_inline int icmp_to_task(struct __sk_buff *skb, struct icmp_error *err, __u32 vni,
					const struct endpoint *e, const struct addr *task, __u16 task_port)
{
	struct packet *about = &err->about;
	__u16 client_port = about->dport;
	struct reply_key key = {};
	struct reply *r;
	__u32 outer;

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
	/* The quoted header and its checksum change together, so the error's checksum stays. */
	bpf_l3_csum_replace(skb, err->inner + offsetof(struct iphdr, check), about->saddr, task->w[3], 4);
	bpf_skb_store_bytes(skb, err->inner + offsetof(struct iphdr, saddr), &task->w[3], 4, 0);

	if (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, daddr), &outer, 4))
		return drop(skb, vni, DROP_MALFORMED);
	bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check), outer, task->w[3], 4);
	bpf_skb_store_bytes(skb, ETH_HLEN + offsetof(struct iphdr, daddr), &task->w[3], 4, 0);
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

#endif
