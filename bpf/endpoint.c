/* Host side of every container's link, on receive: what the container sends.
 *
 * Source MAC and address must be its own; once a packet passed, others of the same addresses do. Questions about addresses are answered here; packets go straight into the
 * other container, or into the tunnel. On the ingress network only replies of published flows leave.
 */
#include "answer.h"
#include "icmp.h"

static __always_inline void remember(struct __sk_buff *skb, __u32 ifindex, struct link *l, struct endpoint *e,
				     struct path *path, __u64 generation)
{
	void *data = (void *)(long)skb->data;
	struct iphdr *ip = data + ETH_HLEN;
	struct verdict *v;

	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return;
	v = verdict_slot(&departures, ifindex, ip->saddr, ip->daddr);
	if (!v)
		return;
	v->generation = generation;
	v->source_mac = mac_at(data + ETH_ALEN);
	v->mac = mac_at(e->mac);
	v->from = ifindex;
	v->saddr = ip->saddr;
	v->daddr = ip->daddr;
	v->to = e->kind == KIND_LOCAL ? e->ifindex : 0;
	v->vni = l->vni;
	v->remote = e->remote.w[3];
	if (path)
		v->path = *path;
	else
		v->path.ifindex = 0;
}

static __always_inline int tunnel(struct __sk_buff *skb, __u32 vni, __u32 remote, struct path *path)
{
	struct addr to = addr4(remote);
	int done = path ? by_path(skb, vni, remote, path) : 0;

	count(PATH_TO_TUNNEL, skb->len);
	return done ? done : by_device(skb, vni, &to);
}

/* Zero where nothing is known about such packets. */
static __always_inline int as_before(struct __sk_buff *skb, __u32 ifindex)
{
	void *data = (void *)(long)skb->data;
	struct iphdr *ip = data + ETH_HLEN;
	struct epoch *e = now();
	struct verdict *v;

	if (!e || (void *)(ip + 1) > (void *)(long)skb->data_end || skb->protocol != bpf_htons(ETH_P_IP))
		return 0;
	v = verdict_slot(&departures, ifindex, ip->saddr, ip->daddr);
	if (!v || !holds(v, e, ifindex, mac_at(data + ETH_ALEN), ip->saddr, ip->daddr))
		return 0;
	if (!v->to)
		return tunnel(skb, v->vni, v->remote, v->path.ifindex && confirmed(e) ? &v->path : 0);
	count(PATH_LOCAL, skb->len);
	return into_link(skb, v->to, v->mac);
}

static __always_inline int forward4(struct __sk_buff *skb, struct link *l, struct addr *dst, __u64 generation)
{
	struct endpoint *e = endpoint_of(l->vni, dst);
	struct path *path;

	if (!e)
		return drop(skb, l->vni, DROP_UNKNOWN_DESTINATION);
	if (e->kind == KIND_LOCAL) {
		remember(skb, skb->ifindex, l, e, 0, generation);
		count(PATH_LOCAL, skb->len);
		return into_container(skb, e);
	}
	if (e->kind != KIND_REMOTE)
		return answer_echo4(skb, l->vni);
	if (!addr_is4(&e->remote)) {
		count(PATH_TO_TUNNEL, skb->len);
		return by_device(skb, l->vni, &e->remote);
	}
	path = path_to(&e->remote);
	remember(skb, skb->ifindex, l, e, path, generation);
	return tunnel(skb, l->vni, e->remote.w[3], path);
}

static __always_inline int forward6(struct __sk_buff *skb, struct link *l, struct addr *dst)
{
	struct endpoint *e = endpoint_of(l->vni, dst);

	if (!e)
		return drop(skb, l->vni, DROP_UNKNOWN_DESTINATION);
	if (e->kind == KIND_LOCAL) {
		count(PATH_LOCAL, skb->len);
		return into_container(skb, e);
	}
	if (e->kind == KIND_REMOTE) {
		count(PATH_TO_TUNNEL, skb->len);
		return into_tunnel(skb, l->vni, &e->remote);
	}
	return answer_echo6(skb, l->vni);
}

static __always_inline int from_container4(struct __sk_buff *skb, struct link *l, __u64 generation)
{
	struct iphdr *ip;
	struct addr src, dst;

	if (!readable(skb, ETH_HLEN + sizeof(*ip)))
		return drop(skb, l->vni, DROP_MALFORMED);
	ip = (void *)(long)skb->data + ETH_HLEN;
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return drop(skb, l->vni, DROP_MALFORMED);
	src = addr4(ip->saddr);
	dst = addr4(ip->daddr);
	if (!owns(l, &src))
		return drop(skb, l->vni, DROP_SPOOFED_ADDRESS);
	if (l->ingress)
		return ip->protocol == IPPROTO_ICMP ? icmp_out(skb, l->vni) : mesh_from_task(skb, l->vni);
	if ((ip->daddr & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) || ip->daddr == 0xffffffff)
		return drop(skb, l->vni, DROP_MULTICAST);
	return forward4(skb, l, &dst, generation);
}

static __always_inline int from_container6(struct __sk_buff *skb, struct link *l)
{
	struct ipv6hdr *ip;
	struct addr src, dst;

	if (!readable(skb, ETH_HLEN + sizeof(*ip)))
		return drop(skb, l->vni, DROP_MALFORMED);
	ip = (void *)(long)skb->data + ETH_HLEN;
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return drop(skb, l->vni, DROP_MALFORMED);
	__builtin_memcpy(&src, &ip->saddr, sizeof(src));
	__builtin_memcpy(&dst, &ip->daddr, sizeof(dst));
	/* Multicast first: link-local and unspecified sources are legitimate there. */
	if ((dst.w[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000))
		return answer_nd(skb, l);
	if (!owns(l, &src))
		return drop(skb, l->vni, DROP_SPOOFED_ADDRESS);
	if (l->ingress)
		return drop(skb, l->vni, DROP_INGRESS_ISOLATED);
	if (ip->nexthdr == IPPROTO_ICMPV6) {
		struct endpoint *e = endpoint_of(l->vni, &dst);
		__u8 type = 0;

		/* A unicast solicitation is answered too: the neighbour cache refreshes itself that way. */
		bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(*ip), &type, 1);
		if (e && type == ND_SOLICIT)
			return answer_nd(skb, l);
	}
	return forward6(skb, l, &dst);
}

SEC("classifier")
int endpoint(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	int done = as_before(skb, ifindex);
	struct ethhdr *eth;
	struct link *l;
	__u64 of;
	__u16 proto;

	if (done)
		return done;
	of = generation();
	l = bpf_map_lookup_elem(&links, &ifindex);
	if (!l)
		return drop(skb, 0, DROP_UNKNOWN_LINK);
	if (!readable(skb, ETH_HLEN))
		return drop(skb, l->vni, DROP_MALFORMED);
	eth = (void *)(long)skb->data;
	if ((void *)(eth + 1) > (void *)(long)skb->data_end)
		return drop(skb, l->vni, DROP_MALFORMED);
	if (!mac_eq(eth->h_source, l->mac))
		return drop(skb, l->vni, DROP_SPOOFED_MAC);
	proto = eth->h_proto;
	if (proto == bpf_htons(ETH_P_IP))
		return from_container4(skb, l, of);
	if (proto == bpf_htons(ETH_P_IPV6))
		return from_container6(skb, l);
	if (proto == bpf_htons(ETH_P_ARP))
		return answer_arp(skb, l);
	return drop(skb, l->vni, DROP_PROTOCOL);
}

char LICENSE[] SEC("license") = "Apache-2.0";
