/* Verdicts that were found once and hold for the packets that follow: one look into an array instead of three into hash
 * tables. Only packets that passed every check leave one behind.
 */
#ifndef MALHA_VERDICT_H
#define MALHA_VERDICT_H

#include "packet.h"

static __always_inline struct epoch *now(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&epochs, &zero);
}

static __always_inline struct verdict *verdict_slot(void *map, __u32 from, __u32 saddr, __u32 daddr)
{
	__u32 index = (saddr ^ daddr * 0x9e3779b1 ^ from * 0x85ebca6b) * 0xc2b2ae35;

	index = index >> 16 & (VERDICTS - 1);
	return bpf_map_lookup_elem(map, &index);
}

static __always_inline int holds(const struct verdict *v, const struct epoch *e, __u32 from, __u64 source_mac,
				 __u32 saddr, __u32 daddr)
{
	return v->generation == e->generation && v->from == from && v->source_mac == source_mac &&
	       v->saddr == saddr && v->daddr == daddr;
}

/* Which generation a verdict is of must be read before what it follows from. The daemon writes in the other order. */
static __always_inline __u64 generation(void)
{
	struct epoch *e = now();

	return e ? __sync_fetch_and_add(&e->generation, 0) : 0;
}

#endif
