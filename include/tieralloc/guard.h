/*
 * tieralloc/guard.h - what surrounds an object at TIERALLOC_CHECKS 2.
 *
 * SPDX-License-Identifier: MIT
 *
 * At that level each object ends with a record: how many bytes were asked for,
 * and who allocated and freed it. Between the two lies a red zone; a free object
 * is filled with a pattern:
 *
 *     in use   |  what was asked for   | FC FC FC FC | record |
 *     free     | mark | FD FD FD FD FD FD FD FD FD FD | record |
 *
 * The red zone and the record are looked at when the object is freed, the
 * pattern when it is handed out again. What was overwritten is told to a
 * callback and repaired; the call goes on. The record of an object also guards
 * the object after it against what is written before its begin.
 *
 * Needs TIER_GUARD_BYTES more per object; below level 2 nothing of it exists.
 */
#ifndef TIERALLOC_GUARD_H
#define TIERALLOC_GUARD_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- Types ---------------------------------------------------------------- */

/* What happened to an object. */
enum tier_fault {
    TIER_FAULT_OVERRUN = 1,    /* written past the bytes asked for */
    TIER_FAULT_USE_AFTER_FREE, /* written after it was freed */
    TIER_FAULT_RECORD,         /* its record was overwritten, by whom ever */
    TIER_FAULT_DOUBLE_FREE,    /* freed again */
    TIER_FAULT_WRONG_SIZE      /* freed with a size that is not its own */
};

/* A fault, as told to the callback. */
struct tier_report {
    enum tier_fault fault;
    const void *object;
    const char *cache;      /* name of its cache; NULL for a size class */
    size_t object_bytes;    /* bytes the object takes, record included */
    size_t bytes;           /* bytes asked for; 0 when the record is lost */
    size_t offset;          /* of the first byte overwritten, from the object */
    unsigned char expected; /* what that byte should be */
    unsigned char found;    /* what it is */
    uintptr_t alloc_site; /* who allocated it last: TIERALLOC_SITE; 0: nobody */
    uintptr_t free_site;  /* who freed it last; 0: nobody */
};

/*
 * Receives a report. May run under the lock and with interrupts off: it must
 * not call the allocator, and `report` is only valid during the call.
 */
typedef void (*tier_report_callback)(void *context,
                                     const struct tier_report *report);

/* --- Layout --------------------------------------------------------------- */

/* What an object ends with. */
struct tier_guard_record {
    size_t bytes; /* asked for */
    uintptr_t alloc_site;
    uintptr_t free_site;
    uintptr_t canary; /* the other words and the address of the record, mixed */
};

/* Bytes that the record and the smallest red zone add to an object. */
#if TIERALLOC_CHECKS == 2
#define TIER_GUARD_BYTES (sizeof(struct tier_guard_record) + 8)
#else
#define TIER_GUARD_BYTES ((size_t)0)
#endif

/* What red zones and free objects are filled with. */
#define TIER_GUARD_RED_ZONE 0xFCU
#define TIER_GUARD_FREED    0xFDU

/* --- Inspection ----------------------------------------------------------- */

/* What a fault is, as one short English line; never NULL. */
TIERALLOC_API const char *tier_fault_text(enum tier_fault fault);

#ifdef __cplusplus
}
#endif

#endif /* TIERALLOC_GUARD_H */

/* === Implementation ======================================================= */

#if (defined(TIERALLOC_IMPLEMENTATION) || defined(TIERALLOC_STATIC)) && \
    !defined(TIERALLOC_GUARD_IMPLEMENTED)
#define TIERALLOC_GUARD_IMPLEMENTED

#include "internal.h"

TIERALLOC_API const char *tier_fault_text(enum tier_fault fault)
{
    switch (fault) {
    case TIER_FAULT_OVERRUN:
        return "written past its end";
    case TIER_FAULT_USE_AFTER_FREE:
        return "written after it was freed";
    case TIER_FAULT_RECORD:
        return "the allocator's record of it was overwritten";
    case TIER_FAULT_DOUBLE_FREE:
        return "freed twice";
    case TIER_FAULT_WRONG_SIZE:
        return "freed with a wrong size";
    }
    return "unknown fault";
}

#if TIERALLOC_CHECKS == 2

/* An object as the functions below see it, and where faults are told. */
struct tier_guard_ {
    tier_report_callback report;
    void *context;
    const char *cache;
    size_t object_bytes;
    bool fresh; /* nobody had the object yet: it has no record */
};

TIER_INLINE_ struct tier_guard_record *tier_guard_record_(
    const struct tier_guard_ *guard, const void *object)
{
    return (struct tier_guard_record *)((uintptr_t)object +
                                        guard->object_bytes -
                                        sizeof(struct tier_guard_record));
}

/*
 * A value that a record overwritten by accident does not hold: one while the
 * object is in use, another while it is free.
 */
TIER_INLINE_ uintptr_t
tier_guard_canary_(const struct tier_guard_record *record, bool in_use)
{
    uintptr_t alloc = record->alloc_site;
    uintptr_t free = record->free_site;
    uintptr_t mixed;

    alloc = alloc << 1 | alloc >> (TIER_WORD_BITS_ - 1);
    free = free << 2 | free >> (TIER_WORD_BITS_ - 2);
    mixed = (uintptr_t)record ^ record->bytes ^ alloc ^ free;
    return in_use ? ~mixed : mixed ^ (TIER_GUARD_FREED << 16);
}

/* True when a record is as it was written for an object in this state. */
TIER_INLINE_ bool tier_guard_is_(const struct tier_guard_record *record,
                                 bool in_use)
{
    return record->canary == tier_guard_canary_(record, in_use);
}

/* Bytes before the record. */
TIER_INLINE_ size_t tier_guard_room_(const struct tier_guard_ *guard)
{
    return guard->object_bytes - sizeof(struct tier_guard_record);
}

/* Bytes asked for, of an object in use; all that fit, if the record is lost. */
static size_t tier_guard_bytes_(const struct tier_guard_ *guard,
                                const void *object)
{
    const struct tier_guard_record *record = tier_guard_record_(guard, object);

    return tier_guard_is_(record, true) ? record->bytes
                                        : tier_guard_room_(guard);
}

/* Tell of a fault at an offset. */
static void tier_guard_tell_(const struct tier_guard_ *guard,
                             const void *object, enum tier_fault fault,
                             size_t offset, unsigned expected)
{
    const struct tier_guard_record *record = tier_guard_record_(guard, object);
    bool trusted = !guard->fresh && (tier_guard_is_(record, true) ||
                                     tier_guard_is_(record, false));
    struct tier_report report;

    if (guard->report == NULL) {
        return;
    }
    report.fault = fault;
    report.object = object;
    report.cache = guard->cache;
    report.object_bytes = guard->object_bytes;
    report.bytes = trusted ? record->bytes : 0;
    report.offset = offset;
    report.expected = (unsigned char)expected;
    report.found = ((const unsigned char *)object)[offset];
    report.alloc_site = trusted ? record->alloc_site : 0;
    report.free_site = trusted ? record->free_site : 0;
    guard->report(guard->context, &report);
}

/* Tell of the first byte of [begin, end) that is not `fill`; true if none. */
static bool tier_guard_look_(const struct tier_guard_ *guard,
                             const void *object, size_t begin, size_t end,
                             unsigned fill, enum tier_fault fault)
{
    const unsigned char *bytes = (const unsigned char *)object;

    for (size_t i = begin; i < end; i++) {
        if (bytes[i] != fill) {
            tier_guard_tell_(guard, object, fault, i, fill);
            return false;
        }
    }
    return true;
}

/* Tell of the first byte of a free object's mark that was overwritten. */
static bool tier_guard_look_mark_(const struct tier_guard_ *guard,
                                  const void *object, uintptr_t mark)
{
    const unsigned char *found = (const unsigned char *)object;
    const unsigned char *expected = (const unsigned char *)&mark;

    for (size_t i = 0; i < sizeof(mark); i++) {
        if (found[i] != expected[i]) {
            tier_guard_tell_(guard, object, TIER_FAULT_USE_AFTER_FREE, i,
                             expected[i]);
            return false;
        }
    }
    return true;
}

static void tier_guard_fill_(void *object, size_t begin, size_t end,
                             unsigned fill)
{
    unsigned char *bytes = (unsigned char *)object;

    for (size_t i = begin; i < end; i++) {
        bytes[i] = (unsigned char)fill;
        TIER_OPAQUE_(i);
    }
}

/* Make memory a free object that nobody had yet. */
static void tier_guard_make_(const struct tier_guard_ *guard, void *object,
                             bool fill)
{
    struct tier_guard_record *record = tier_guard_record_(guard, object);

    if (fill) {
        tier_guard_fill_(object, sizeof(uintptr_t), tier_guard_room_(guard),
                         TIER_GUARD_FREED);
    }
    record->bytes = 0;
    record->alloc_site = 0;
    record->free_site = 0;
    record->canary = tier_guard_canary_(record, false);
}

/* True when the record is as it was written; tells of it otherwise. */
static bool tier_guard_trust_(const struct tier_guard_ *guard,
                              const void *object, bool in_use)
{
    if (tier_guard_is_(tier_guard_record_(guard, object), in_use)) {
        return true;
    }
    tier_guard_tell_(guard, object, TIER_FAULT_RECORD, tier_guard_room_(guard),
                     0);
    return false;
}

/* Look at a free object, and make it one in use of `bytes` bytes. */
static void tier_guard_open_(const struct tier_guard_ *guard, void *object,
                             size_t bytes, uintptr_t mark, uintptr_t site,
                             bool fill)
{
    struct tier_guard_record *record = tier_guard_record_(guard, object);
    size_t room = tier_guard_room_(guard);

    (void)tier_guard_trust_(guard, object, false);
    if (fill && tier_guard_look_mark_(guard, object, mark)) {
        (void)tier_guard_look_(guard, object, sizeof(mark), room,
                               TIER_GUARD_FREED, TIER_FAULT_USE_AFTER_FREE);
    }
    if (fill) {
        *(tier_alias_word_ *)object = 0; /* no mark: the object is in use */
    }
    tier_guard_fill_(object, bytes, room, TIER_GUARD_RED_ZONE);
    record->bytes = bytes;
    record->alloc_site = site;
    record->free_site = 0;
    record->canary = tier_guard_canary_(record, true);
}

/*
 * Look at an object in use, and make it a free one. False, with nothing changed,
 * when it is free already: what is written to a free object hides its mark, but
 * not its record.
 */
static bool tier_guard_close_(const struct tier_guard_ *guard, void *object,
                              uintptr_t mark, uintptr_t site, bool fill)
{
    struct tier_guard_record *record = tier_guard_record_(guard, object);
    size_t room = tier_guard_room_(guard);

    if (tier_guard_is_(record, false)) {
        tier_guard_tell_(guard, object, TIER_FAULT_DOUBLE_FREE, 0,
                         ((const unsigned char *)object)[0]);
        return false;
    }
    if (tier_guard_trust_(guard, object, true)) {
        (void)tier_guard_look_(guard, object, record->bytes, room,
                               TIER_GUARD_RED_ZONE, TIER_FAULT_OVERRUN);
    } else {
        record->bytes = 0;
        record->alloc_site = 0;
    }
    if (fill) {
        *(tier_alias_word_ *)object = mark;
        tier_guard_fill_(object, sizeof(mark), room, TIER_GUARD_FREED);
    }
    record->free_site = site;
    record->canary = tier_guard_canary_(record, false);
    return true;
}

#endif /* TIERALLOC_CHECKS == 2 */

#endif /* TIERALLOC_GUARD_IMPLEMENTED */
