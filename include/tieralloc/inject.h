/*
 * tieralloc/inject.h - requests that fail on purpose, at TIERALLOC_CHECKS 2.
 *
 * SPDX-License-Identifier: MIT
 *
 * What a program does when memory runs out is seldom tried. A rule makes
 * requests fail that would have succeeded: the nth from now on, each mth, all of
 * one caller, or a mixture:
 *
 *     for (n = 1; ; n++) {
 *         struct tier_injection rule = {n, 0, 0};
 *         tier_inject(heap, &rule);          the nth request fails
 *         work();                            ... must leave nothing behind
 *         if (tier_injected(heap) == 0) break;
 *     }
 *
 * A request is a call of tieralloc.h that asks for memory, at whose tag, which is
 * the site of the call, a rule may look. O(1). No function locks.
 */
#ifndef TIERALLOC_INJECT_H
#define TIERALLOC_INJECT_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- Types ---------------------------------------------------------------- */

/* Which requests fail. Those that the rule does not count do not. */
struct tier_injection {
    size_t nth;    /* fail the nth that is counted, 1 being the next; 0: none */
    size_t every;  /* fail each one whose number this divides; 0: none */
    uintptr_t tag; /* count requests of this site only; 0: of all */
};

/* A rule and how far it is. The caller owns the storage; fields are private. */
struct tier_injector {
    struct tier_injection rule;
    size_t counted; /* requests since the rule was set */
    size_t failed;  /* of these, made to fail */
};

/* --- Calls ---------------------------------------------------------------- */

/* Follow a rule from the next request on; NULL: none. */
TIERALLOC_API void tier_injector_set(struct tier_injector *injector,
                                     const struct tier_injection *rule);

/* Count a request of a site; true when it is to fail. */
TIERALLOC_API bool tier_injector_hit(struct tier_injector *injector,
                                     uintptr_t site);

#ifdef __cplusplus
}
#endif

#endif /* TIERALLOC_INJECT_H */

/* === Implementation ======================================================= */

#if (defined(TIERALLOC_IMPLEMENTATION) || defined(TIERALLOC_STATIC)) && \
    !defined(TIERALLOC_INJECT_IMPLEMENTED)
#define TIERALLOC_INJECT_IMPLEMENTED

#include "internal.h"

TIERALLOC_API void tier_injector_set(struct tier_injector *injector,
                                     const struct tier_injection *rule)
{
    injector->rule.nth = rule == NULL ? 0 : rule->nth;
    injector->rule.every = rule == NULL ? 0 : rule->every;
    injector->rule.tag = rule == NULL ? 0 : rule->tag;
    injector->counted = 0;
    injector->failed = 0;
}

TIERALLOC_API bool tier_injector_hit(struct tier_injector *injector,
                                     uintptr_t site)
{
    const struct tier_injection *rule = &injector->rule;

    if ((rule->nth == 0 && rule->every == 0) ||
        (rule->tag != 0 && rule->tag != site)) {
        return false;
    }
    size_t number = ++injector->counted;
    bool hit =
        number == rule->nth || (rule->every != 0 && number % rule->every == 0);

    injector->failed += hit;
    return hit;
}

#endif /* TIERALLOC_INJECT_IMPLEMENTED */
