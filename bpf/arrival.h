/* What other nodes send to containers of this one, on its two ways: through the node's stack to the tunnel device, and
 * straight from the uplink.
 *
 * The node's own rules (firewall, return path filter, policies) decide about the tunnel's packets. So the short way is only
 * for addresses of which a packet came through the stack within the last second; on the device by which that node is
 * reached; and for what a rule would not tell from that packet. Whatever is odd about a packet takes the long way.
 *
 * Segments that were put together on receive keep the marks of their tunnel on the short way: the kernel alone can take
 * them off. A device that cuts segments would be misled by them, a socket does not look. So they go the short way where a
 * socket of the container takes them, and the long one where the container may pass them on.
 *
 * Nothing overtakes: the short way is open while nothing of the same addresses is in the stack.
 */
#ifndef MALHA_ARRIVAL_H
#define MALHA_ARRIVAL_H

#include "tunnel.h"

#define ADMITTED_NS 1000000000ULL
#define OVERTAKE_NS 20000000ULL

static __always_inline struct verdict *arrival(__u32 vni, __u32 remote, __u32 daddr)
{
	return verdict_slot(&arrivals, vni, remote, daddr);
}

/* Of a packet that came through the stack. */
static __always_inline void admit(struct verdict *v)
{
	v->until = bpf_ktime_get_coarse_ns() + ADMITTED_NS;
}

/* Segments on the way through the stack, where packets may be put together. */
static __always_inline __u32 segments(const struct __sk_buff *skb)
{
	return skb->gso_segs ? skb->gso_segs : 1;
}

/* What goes into the stack is counted, and again when it came out: whatever its verdict, and with all that share its slot.
 * What was lost on the way holds up the others for a moment only.
 */
static __always_inline int into_stack(const struct __sk_buff *skb, struct verdict *v, __u64 time)
{
	if (!v->ahead || time - v->first >= OVERTAKE_NS) {
		v->ahead = 0;
		v->first = time;
	}
	v->ahead += segments(skb);
	return PASS;
}

static __always_inline void out_of_stack(const struct __sk_buff *skb, struct verdict *v)
{
	__u32 out = segments(skb);

	v->ahead = v->ahead > out ? v->ahead - out : 0;
}

static __always_inline int nothing_ahead(const struct verdict *v, __u64 time)
{
	return !v->ahead || time - v->first >= OVERTAKE_NS;
}

static __always_inline void remember_arrival(__u32 vni, __u32 remote, __u32 daddr,
					     const struct endpoint *e, __u64 generation)
{
	__u32 ifindex = e->ifindex;
	struct link *l = bpf_map_lookup_elem(&links, &ifindex);
	struct verdict *v = arrival(vni, remote, daddr);
	struct addr peer = addr4(remote);
	struct path *path = path_to(&peer);

	if (!v)
		return;
	v->generation = generation;
	v->source_mac = 0;
	v->mac = mac_at(e->mac);
	v->from = vni;
	v->saddr = remote;
	v->daddr = daddr;
	v->to = ifindex;
	v->netns = l ? l->netns : 0;
	if (path)
		v->path = *path;
	else
		v->path.ifindex = 0;
	admit(v);
}

/* A packet of the tunnel as it is on the underlay. */
struct wrapped {
	struct ethhdr outer;
	struct wrapping w;
	struct iphdr ip;
} __attribute__((packed));

/* Whether a socket of the container has this flow. One that listens does not have it: the packet may go elsewhere. What is
 * marked for congestion is for the kernel, which knows of how many segments it speaks.
 */
static __always_inline int has_socket(struct __sk_buff *skb, const struct verdict *v, const struct iphdr *inner)
{
	struct bpf_sock_tuple flow = { .ipv4 = { .saddr = inner->saddr, .daddr = inner->daddr } };
	struct bpf_sock *sk;
	int has;

	if (!v->netns || inner->protocol != IPPROTO_TCP || inner->ihl != sizeof(*inner) / 4 ||
	    (inner->tos & ECN_MASK) == ECN_CE ||
	    bpf_skb_load_bytes(skb, sizeof(struct wrapped), &flow.ipv4.sport, 2 * sizeof(flow.ipv4.sport)))
		return 0;
	sk = bpf_sk_lookup_tcp(skb, &flow, sizeof(flow.ipv4), v->netns - 1, 0);
	if (!sk)
		return 0;
	has = sk->state != BPF_TCP_LISTEN;
	bpf_sk_release(sk);
	return has;
}

/* Straight into the container; PASS where the stack is to have the packet. */
static SEPARATE int short_way(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	struct iphdr *outer = data + offsetof(struct wrapped, w.ip);
	struct udphdr *udp = data + offsetof(struct wrapped, w.udp);
	__be32 *vxlan = data + offsetof(struct wrapped, w.flags);
	struct iphdr *inner = data + offsetof(struct wrapped, ip);
	__u64 time, flags = BPF_F_ADJ_ROOM_FIXED_GSO;
	struct epoch *e = now();
	struct verdict *v;
	__u8 macs[2 * ETH_ALEN];
	__u32 vni, to;

	if (!e || (void *)(inner + 1) > (void *)(long)skb->data_end || skb->pkt_type != PACKET_HOST ||
	    skb->vlan_present || outer->frag_off & bpf_htons(IP_FRAGMENT) || header_sum(outer) ||
	    vxlan[0] != bpf_htonl(VXLAN_HAS_VNI) ||
	    *(__be16 *)(data + offsetof(struct wrapped, w.eth.h_proto)) != bpf_htons(ETH_P_IP))
		return PASS;
	vni = bpf_ntohl(vxlan[1]) >> 8;
	v = arrival(vni, outer->saddr, inner->daddr);
	if (!v)
		return PASS;
	time = bpf_ktime_get_coarse_ns();
	if (!holds(v, e, vni, 0, outer->saddr, inner->daddr) || v->path.ifindex != skb->ifindex ||
	    v->path.source != outer->daddr || (outer->tos & ECN_MASK) == ECN_CE || udp->check ||
	    time > v->until || time > e->paths_until || !nothing_ahead(v, time) ||
	    (skb->gso_size && !has_socket(skb, v, inner)))
		return into_stack(skb, v, time);
	to = v->to;
	__builtin_memcpy(macs, &v->mac, ETH_ALEN);
	__builtin_memcpy(macs + ETH_ALEN, data + offsetof(struct wrapped, w.eth.h_source), ETH_ALEN);
	/* A device that checked the inner packet too has said so for both. */
	if (bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) > 0) {
		flags |= BPF_F_ADJ_ROOM_NO_CSUM_RESET;
		bpf_csum_level(skb, BPF_CSUM_LEVEL_DEC);
	}
	if (bpf_skb_adjust_room(skb, -(__s32)sizeof(struct wrapping), BPF_ADJ_ROOM_MAC, flags))
		return into_stack(skb, v, time);
	bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0);
	count(PATH_FROM_TUNNEL, skb->len);
	return bpf_redirect_peer(to, 0);
}

#endif
