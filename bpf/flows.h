/* Where published flows are kept, on the entry node and on the task's. Full tables lose what was used longest ago, and an idle
 * connection must not be lost by ordinary load: what anybody makes in any number is kept apart from it.
 *
 *   flows          replies           TCP, with a client that went on after its first packet
 *   opening_flows  opening_replies   TCP, of which that first packet is all there was: a flood of SYNs stays here
 *   udp_flows      udp_replies       every datagram may be a flow of its own
 *   ended_flows    ended_replies     TCP, over a moment ago
 *
 * A packet of an established connection finds its row at the first look.
 */
#ifndef MALHA_FLOWS_H
#define MALHA_FLOWS_H

#include "packet.h"

#define ENDED_NS (60ULL * 1000000000ULL)

static __always_inline int is_recent(__u64 closed)
{
	return bpf_ktime_get_ns() - closed < ENDED_NS;
}

/* ---- entry node ------------------------------------------------------------------------------------------------- */

static __always_inline struct flow *establish(const struct flow_key *key, const struct flow *opening)
{
	bpf_map_update_elem(&flows, key, opening, BPF_NOEXIST);
	bpf_map_delete_elem(&opening_flows, key);
	return bpf_map_lookup_elem(&flows, key);
}

/* The other entry of a client that is shown as the node. */
static __always_inline void shown_key(struct flow_key *shown, const struct flow_key *key, const struct flow *f,
				      const struct addr *node)
{
	*shown = *key;
	shown->client = *node;
	shown->client_port = f->shown_port;
	shown->shown = 1;
}

/* The client went on: its flow, in both of its entries, is one to be kept. */
static SEPARATE struct flow *went_on(const struct flow_key *key, const struct addr *node)
{
	struct flow *f = bpf_map_lookup_elem(&opening_flows, key), *other;
	struct flow_key shown;

	if (!f)
		return bpf_map_lookup_elem(&flows, key); /* another processor may just have moved it there */
	if (f->side == SIDE_FORWARD) {
		shown_key(&shown, key, f, node);
		other = bpf_map_lookup_elem(&opening_flows, &shown);
		if (other)
			establish(&shown, other);
	}
	return establish(key, f);
}

/* As it is kept, whoever asks. */
static __always_inline struct flow *flow_of(const struct flow_key *key)
{
	struct flow *f;

	if (key->proto == IPPROTO_UDP)
		return bpf_map_lookup_elem(&udp_flows, key);
	f = bpf_map_lookup_elem(&flows, key);
	if (!f)
		f = bpf_map_lookup_elem(&opening_flows, key);
	return f ? f : bpf_map_lookup_elem(&flows, key);
}

/* For a packet of its client. */
static __always_inline struct flow *client_flow(const struct flow_key *key, const struct addr *node, int goes_on)
{
	struct flow *f;

	if (key->proto == IPPROTO_UDP)
		return bpf_map_lookup_elem(&udp_flows, key);
	f = bpf_map_lookup_elem(&flows, key);
	if (f)
		return f;
	return goes_on ? went_on(key, node) : bpf_map_lookup_elem(&opening_flows, key);
}

static __always_inline void begin_flow(const struct flow_key *key, const struct flow *f)
{
	if (key->proto == IPPROTO_UDP)
		bpf_map_update_elem(&udp_flows, key, f, BPF_ANY);
	else
		bpf_map_update_elem(&opening_flows, key, f, BPF_ANY);
}

static __always_inline void remove_flow(const struct flow_key *key)
{
	if (key->proto == IPPROTO_UDP) {
		bpf_map_delete_elem(&udp_flows, key);
		return;
	}
	bpf_map_delete_elem(&flows, key);
	bpf_map_delete_elem(&opening_flows, key);
}

static __always_inline void end_flow(const struct flow_key *key, const struct flow *f)
{
	bpf_map_update_elem(&ended_flows, key, f, BPF_ANY);
	remove_flow(key);
}

static __always_inline struct flow *ended_flow(const struct flow_key *key)
{
	struct flow *f = bpf_map_lookup_elem(&ended_flows, key);

	return f && is_recent(f->closed) ? f : 0;
}

/* ---- node of the task ------------------------------------------------------------------------------------------- */

static SEPARATE struct reply *opening_reply(const struct reply_key *key, int goes_on)
{
	struct reply *r = bpf_map_lookup_elem(&opening_replies, key);

	if (!r)
		return bpf_map_lookup_elem(&replies, key); /* as in went_on */
	if (!goes_on)
		return r;
	bpf_map_update_elem(&replies, key, r, BPF_NOEXIST);
	bpf_map_delete_elem(&opening_replies, key);
	return bpf_map_lookup_elem(&replies, key);
}

/* `goes_on`: asked for a packet of the client that is not its first. */
static __always_inline struct reply *reply_of(const struct reply_key *key, int goes_on)
{
	struct reply *r;

	if (key->proto == IPPROTO_UDP)
		return bpf_map_lookup_elem(&udp_replies, key);
	r = bpf_map_lookup_elem(&replies, key);
	return r ? r : opening_reply(key, goes_on);
}

static __always_inline void begin_reply(const struct reply_key *key, const struct reply *r)
{
	if (key->proto == IPPROTO_UDP) {
		bpf_map_update_elem(&udp_replies, key, r, BPF_ANY);
		return;
	}
	bpf_map_delete_elem(&replies, key); /* of a connection before, with the same numbers */
	bpf_map_update_elem(&opening_replies, key, r, BPF_ANY);
}

static __always_inline int ended_lately(const struct reply_key *key)
{
	struct reply *r = bpf_map_lookup_elem(&ended_replies, key);

	return r && is_recent(r->closed);
}

static __always_inline void end_reply(const struct reply_key *key, const struct reply *r)
{
	if (r)
		bpf_map_update_elem(&ended_replies, key, r, BPF_ANY);
	bpf_map_delete_elem(&replies, key);
	bpf_map_delete_elem(&opening_replies, key);
}

#endif
