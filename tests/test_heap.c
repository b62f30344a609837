/*
 * tests/test_heap.c - the simple heap against a model of every granule.
 *
 * SPDX-License-Identifier: MIT
 *
 * The model says of each granule of an arena what it is, finds the lowest
 * address that fits by trying them in turn, and predicts each call of the
 * source of pages.
 */
#define TIERALLOC_IMPLEMENTATION
#include "support.h"

#include <tieralloc/heap.h>

#define G         ((size_t)TIERALLOC_MIN_ALIGN)
#define HEAD      sizeof(struct tier_heap_area)
#define WORD_BITS (sizeof(uintptr_t) * 8)
#define GROW      ((size_t)TIER_HEAP_GROW_PAGES)

/* Pages of the arena that are added, and behind them those of the source. */
#define ADDED_PAGES  (TIER_PAGE_SIZE >= 4 * KIB ? 8 : 32 * KIB / TIER_PAGE_SIZE)
#define SOURCE_PAGES 16
#define PAGES        (ADDED_PAGES + SOURCE_PAGES)
#define GRANULES     (PAGES * TIER_PAGE_SIZE / G)
#define ALLOCS       1000
#define AREAS        40

TEST_ARENA(arena, (PAGES * TIER_PAGE_SIZE));
static struct tier_heap heap;
static uint64_t random_state;

static uint32_t below(uint32_t bound)
{
    return test_below(&random_state, bound);
}

/* --- The source of pages -------------------------------------------------- */

static struct {
    bool held[SOURCE_PAGES];
    bool from_the_top; /* give the highest pages that fit, not the lowest */
    size_t most;       /* pages given at once */
    size_t asked;      /* calls of acquire */
    size_t wanted;     /* pages of the last of them */
    size_t given_back; /* calls of release */
    size_t fails_at;   /* this call of acquire fails, counted from 1 */
} source;

/* The first of so many pages that are free; SOURCE_PAGES when there are none.*/
static size_t source_find(const bool *held, size_t pages)
{
    size_t found = SOURCE_PAGES;

    for (size_t at = 0; pages <= source.most && at + pages <= SOURCE_PAGES;
         at++) {
        size_t i = 0;

        while (i < pages && !held[at + i]) {
            i++;
        }
        if (i == pages && (found == SOURCE_PAGES || source.from_the_top)) {
            found = at;
        }
    }
    return found;
}

static void *page_address(size_t page)
{
    return &arena[(ADDED_PAGES + page) * TIER_PAGE_SIZE];
}

static void *acquire(void *context, size_t pages)
{
    const size_t at = source_find(source.held, pages);

    cr_assert(context == &source);
    cr_assert(pages > 0);
    source.wanted = pages;
    if (++source.asked == source.fails_at || at == SOURCE_PAGES) {
        return NULL;
    }
    for (size_t i = 0; i < pages; i++) {
        source.held[at + i] = true;
    }
    return page_address(at);
}

static void release(void *context, void *memory, size_t pages)
{
    const size_t offset = (size_t)((unsigned char *)memory - arena);
    const size_t at = offset / TIER_PAGE_SIZE - ADDED_PAGES;

    cr_assert(context == &source);
    cr_assert(offset % TIER_PAGE_SIZE == 0);
    cr_assert(at < SOURCE_PAGES && pages <= SOURCE_PAGES - at);
    source.given_back++;
    for (size_t i = 0; i < pages; i++) {
        cr_assert(source.held[at + i]);
        source.held[at + i] = false;
    }
    memset(memory, 0xEE, pages * TIER_PAGE_SIZE);
}

static const struct tier_page_source pages_of_arena = {acquire, release,
                                                       &source};

/* --- The model ------------------------------------------------------------ */

enum { OUTSIDE, FREE, FIRST_ALLOC }; /* an allocation is FIRST_ALLOC + index */

static struct {
    uint16_t what[GRANULES];
    bool held[SOURCE_PAGES];
    struct {
        size_t first; /* granules of the arena; 0 granules: no allocation */
        size_t granules;
        unsigned char fill;
    } allocs[ALLOCS];
    struct {
        size_t base;  /* byte of the arena */
        size_t head;  /* granule where the head begins */
        size_t begin; /* granules to allocate; as many as 0: no area */
        size_t end;
        size_t pages;
    } areas[AREAS];
    size_t failed_allocs;
    size_t refused_frees;
} model;

/* Most granules of an area: the best of all numbers of words. */
static size_t most_granules(size_t bytes)
{
    size_t best = 0;

    for (size_t words = 1; HEAD + words * 2 * sizeof(uintptr_t) <= bytes;
         words++) {
        size_t fit = (bytes - HEAD - words * 2 * sizeof(uintptr_t)) / G;

        fit = fit < words * WORD_BITS ? fit : words * WORD_BITS;
        best = fit > best ? fit : best;
    }
    return best;
}

static size_t granules_of(size_t bytes)
{
    size_t granules = bytes / G;

    granules += bytes % G != 0;
    return granules == 0 ? 1 : granules;
}

static unsigned char *address_of(size_t granule)
{
    return &arena[granule * G];
}

static void set_up(bool with_source)
{
    random_state = TEST_SEED;
    memset(&source, 0, sizeof(source));
    memset(&model, 0, sizeof(model));
    memset(arena, 0xA5, sizeof(arena));
    memset(&heap, 0xA5, sizeof(heap));
    source.most = SOURCE_PAGES;
    tier_heap_init(&heap, with_source ? &pages_of_arena : NULL);
    cr_assert(tier_heap_check(&heap));
}

/* Granules that the bytes [base, base + bytes) cover. */
static void cut(size_t base, size_t bytes, size_t *begin, size_t *end)
{
    *begin = (base + G - 1) / G;
    *end = (base + bytes) / G;
}

static void model_add(size_t base, size_t bytes, size_t pages)
{
    size_t head = 0;
    size_t end = 0;
    size_t i = 0;

    cut(base, bytes, &head, &end);
    const size_t begin = end - most_granules((end - head) * G);

    while (model.areas[i].end != 0) {
        i++;
        cr_assert(i < AREAS);
    }
    model.areas[i].base = base;
    model.areas[i].head = head;
    model.areas[i].begin = begin;
    model.areas[i].end = end;
    model.areas[i].pages = pages;
    for (size_t at = begin; at < end; at++) {
        cr_assert_eq(model.what[at], OUTSIDE);
        model.what[at] = FREE;
    }
}

static bool model_empty(size_t i)
{
    for (size_t at = model.areas[i].begin; at < model.areas[i].end; at++) {
        if (model.what[at] != FREE) {
            return false;
        }
    }
    return true;
}

static void model_remove(size_t i)
{
    for (size_t at = model.areas[i].begin; at < model.areas[i].end; at++) {
        model.what[at] = OUTSIDE;
    }
    for (size_t page = 0; page < model.areas[i].pages; page++) {
        model.held[model.areas[i].base / TIER_PAGE_SIZE - ADDED_PAGES + page] =
            false;
    }
    model.areas[i].end = 0;
}

/* Give the empty areas of the source back but one; returns the pages. */
static size_t model_release(size_t but)
{
    size_t pages = 0;

    for (size_t i = 0; i < AREAS; i++) {
        if (i != but && model.areas[i].end != 0 && model.areas[i].pages != 0 &&
            model_empty(i)) {
            pages += model.areas[i].pages;
            model_remove(i);
        }
    }
    return pages;
}

/* The first granule of the lowest place that fits; GRANULES if none does. */
static size_t model_fit(size_t granules, size_t alignment)
{
    size_t at = 0;

    while (at < GRANULES) {
        size_t fit = 0;

        if ((uintptr_t)address_of(at) % alignment == 0) {
            while (fit < granules && at + fit < GRANULES &&
                   model.what[at + fit] == FREE) {
                fit++;
            }
            if (fit == granules) {
                return at;
            }
        }
        at += fit + 1;
    }
    return GRANULES;
}

/* True when so many pages do, wherever they lie. */
static bool enough(size_t pages, size_t granules, size_t alignment)
{
    const size_t bytes = pages * TIER_PAGE_SIZE;
    const size_t usable = most_granules(bytes) * G;

    for (size_t base = 0; base == 0 || base < alignment;
         base += TIER_PAGE_SIZE) {
        const size_t begin = base + bytes - usable;
        const size_t rest = begin % alignment;

        if (begin + (rest == 0 ? 0 : alignment - rest) + granules * G >
            base + bytes) {
            return false;
        }
    }
    return true;
}

/* The fewest pages that are enough; 0 when the largest block is not. */
static size_t model_need(size_t granules, size_t alignment)
{
    const size_t most = (size_t)1 << TIERALLOC_MAX_ORDER;
    size_t pages = granules / (TIER_PAGE_SIZE / G) + 1;

    if (alignment > TIER_BLOCK_MAX) {
        return 0;
    }
    if (alignment > TIER_PAGE_SIZE) {
        pages += alignment / TIER_PAGE_SIZE - 1;
    }
    while (pages <= most && !enough(pages, granules, alignment)) {
        pages++;
    }
    return pages <= most ? pages : 0;
}

/* Take pages for a request as the heap must; false when there are none. */
static bool model_grow(size_t granules, size_t alignment, size_t *asked)
{
    const size_t need = model_need(granules, alignment);
    size_t pages = need < GROW ? GROW : need;
    size_t at = SOURCE_PAGES;

    *asked = 0;
    if (need == 0 || heap.source.acquire == NULL) {
        return false;
    }
    for (;;) {
        at = source_find(model.held, pages);
        if (source.asked + ++*asked != source.fails_at && at < SOURCE_PAGES) {
            break;
        }
        if (pages == need && model_release(AREAS) == 0) {
            return false;
        }
        pages = need;
    }
    for (size_t i = 0; i < pages; i++) {
        model.held[at + i] = true;
    }
    model_add((ADDED_PAGES + at) * TIER_PAGE_SIZE, pages * TIER_PAGE_SIZE,
              pages);
    return true;
}

static void model_mark(size_t begin, size_t end, size_t what)
{
    for (size_t at = begin; at < end; at++) {
        model.what[at] = (uint16_t)what;
    }
}

static size_t model_unused(void)
{
    size_t i = 0;

    while (i < ALLOCS && model.allocs[i].granules != 0) {
        i++;
    }
    return i;
}

/* What freeing an address must return. */
static enum tier_status model_status(const void *memory)
{
    const uintptr_t offset = (uintptr_t)memory - (uintptr_t)arena;
    const size_t at = offset / G;

    if (offset >= sizeof(arena) || model.what[at] == OUTSIDE) {
        return TIER_ERR_FOREIGN;
    }
    if (model.what[at] == FREE) {
        return TIER_ERR_DOUBLE_FREE;
    }
    return offset % G == 0 &&
                   model.allocs[model.what[at] - FIRST_ALLOC].first == at
               ? TIER_OK
               : TIER_ERR_INTERIOR;
}

/* --- What the heap says against what the model says ----------------------- */

static size_t visited;
static size_t visits;

static void visit(void *context, void *memory, size_t bytes)
{
    const size_t at = (size_t)((unsigned char *)memory - arena) / G;
    const size_t i = (size_t)model.what[at] - FIRST_ALLOC;

    cr_assert(context == &visits);
    cr_assert_eq(model_status(memory), TIER_OK);
    cr_assert_eq(bytes, model.allocs[i].granules * G);
    cr_assert(visits == 0 || visited < at);
    visited = at;
    visits++;
}

static void verify_counts(void)
{
    struct tier_heap_stats stats;
    struct tier_heap_stats is;

    memset(&is, 0, sizeof(is));
    for (size_t at = 0, run = 0; at < GRANULES; at++) {
        run = model.what[at] == FREE ? run + G : 0;
        is.total_bytes += model.what[at] == OUTSIDE ? 0 : G;
        is.free_bytes += model.what[at] == FREE ? G : 0;
        is.largest_free_bytes =
            run > is.largest_free_bytes ? run : is.largest_free_bytes;
    }
    for (size_t i = 0; i < AREAS; i++) {
        is.areas += model.areas[i].end != 0;
        is.pages += model.areas[i].end != 0 ? model.areas[i].pages : 0;
    }
    for (size_t i = 0; i < ALLOCS; i++) {
        is.live_allocs += model.allocs[i].granules != 0;
    }
    memset(&stats, 0xA5, sizeof(stats));
    tier_heap_stats(&heap, &stats);
    cr_assert_eq(stats.areas, is.areas);
    cr_assert_eq(stats.pages, is.pages);
    cr_assert_eq(stats.total_bytes, is.total_bytes);
    cr_assert_eq(stats.free_bytes, is.free_bytes);
    cr_assert_eq(stats.largest_free_bytes, is.largest_free_bytes);
    cr_assert_eq(stats.live_bytes, is.total_bytes - is.free_bytes);
    cr_assert_eq(stats.live_allocs, is.live_allocs);
    cr_assert_eq(stats.failed_allocs, model.failed_allocs);
    cr_assert_eq(stats.refused_frees, model.refused_frees);
    cr_assert_eq(visits, is.live_allocs);
}

static void verify(void)
{
    cr_assert(tier_heap_check(&heap));
    visits = 0;
    tier_heap_each(&heap, visit, &visits);
    verify_counts();
    cr_assert(memcmp(source.held, model.held, sizeof(model.held)) == 0);
}

/* --- Calls of both -------------------------------------------------------- */

static enum tier_status add(size_t base, size_t bytes)
{
    const enum tier_status status = tier_heap_add(&heap, &arena[base], bytes);

    if (status == TIER_OK) {
        model_add(base, bytes, 0);
    }
    return status;
}

/* Allocate; NULL exactly when the model finds no place, and where it does. */
static unsigned char *alloc_aligned(size_t bytes, size_t alignment)
{
    const size_t granules = granules_of(bytes);
    const size_t asked_before = source.asked;
    const size_t i = model_unused();
    size_t at = model_fit(granules, alignment);
    size_t asked = 0;

    if (at == GRANULES && model_grow(granules, alignment, &asked)) {
        at = model_fit(granules, alignment);
        cr_assert(at < GRANULES);
    }
    unsigned char *const memory =
        (unsigned char *)tier_heap_alloc_aligned(&heap, bytes, alignment);

    cr_assert_eq(source.asked - asked_before, asked);
    if (at == GRANULES) {
        cr_assert_null(memory);
        model.failed_allocs++;
        return NULL;
    }
    cr_assert_eq(memory, address_of(at));
    cr_assert(i < ALLOCS);
    model.allocs[i].first = at;
    model.allocs[i].granules = granules;
    model.allocs[i].fill = (unsigned char)test_random(&random_state);
    model_mark(at, at + granules, FIRST_ALLOC + i);
    memset(memory, model.allocs[i].fill, granules * G);
    return memory;
}

static unsigned char *alloc(size_t bytes)
{
    return alloc_aligned(bytes, 1);
}

/* Free allocation number `i` in the model. */
static void model_free(size_t i)
{
    const size_t first = model.allocs[i].first;
    const size_t granules = model.allocs[i].granules;

    cr_assert(test_all(address_of(first), model.allocs[i].fill, granules * G));
    model_mark(first, first + granules, FREE);
    model.allocs[i].granules = 0;
    for (size_t area = 0; area < AREAS; area++) {
        if (model.areas[area].end != 0 && model.areas[area].begin <= first &&
            first < model.areas[area].end && model.areas[area].pages != 0 &&
            model_empty(area)) {
            (void)model_release(area);
        }
    }
}

/* Free any address. */
static enum tier_status free_any(void *memory)
{
    const enum tier_status expected =
        memory == NULL ? TIER_OK : model_status(memory);

    if (expected != TIER_OK) {
        model.refused_frees++;
    } else if (memory != NULL) {
        model_free((size_t)model
                       .what[((unsigned char *)memory - arena) / (ptrdiff_t)G] -
                   FIRST_ALLOC);
    }
    cr_assert_eq(tier_heap_free(&heap, memory), expected);
    return expected;
}

/* Resize an allocation in the model, or say why not. */
static enum tier_status model_resize(size_t i, size_t granules)
{
    const size_t first = model.allocs[i].first;
    size_t at = first + model.allocs[i].granules;
    size_t area = 0;

    while (model.areas[area].end <= first || model.areas[area].begin > first) {
        area++;
    }
    if (granules > model.areas[area].end - first) {
        return TIER_ERR_TOO_LARGE;
    }
    for (; at < first + granules; at++) {
        if (model.what[at] != FREE) {
            return TIER_ERR_IN_USE;
        }
    }
    cr_assert(test_all(address_of(first), model.allocs[i].fill,
                       model.allocs[i].granules * G));
    model_mark(first, first + model.allocs[i].granules, FREE);
    model_mark(first, first + granules, FIRST_ALLOC + i);
    return TIER_OK;
}

static enum tier_status resize(void *memory, size_t bytes)
{
    enum tier_status expected = model_status(memory);

    if (expected != TIER_OK) {
        model.refused_frees++;
        cr_assert_eq(tier_heap_resize(&heap, memory, bytes), expected);
        return expected;
    }
    const size_t i =
        (size_t)model.what[((unsigned char *)memory - arena) / (ptrdiff_t)G] -
        FIRST_ALLOC;

    expected = model_resize(i, granules_of(bytes));
    cr_assert_eq(tier_heap_resize(&heap, memory, bytes), expected);
    if (expected != TIER_OK) {
        model.failed_allocs++;
        return expected;
    }
    const size_t kept = model.allocs[i].granules < granules_of(bytes)
                            ? model.allocs[i].granules
                            : granules_of(bytes);

    cr_assert(test_all(memory, model.allocs[i].fill, kept * G));
    model.allocs[i].granules = granules_of(bytes);
    memset(memory, model.allocs[i].fill, model.allocs[i].granules * G);
    return expected;
}

static void trim(void)
{
    cr_assert_eq(tier_heap_trim(&heap), model_release(AREAS));
}

/* Remove what was added at a byte of the arena. */
static enum tier_status remove_area(size_t base)
{
    enum tier_status expected = TIER_ERR_FOREIGN;

    for (size_t i = 0; i < AREAS; i++) {
        if (model.areas[i].end != 0 && model.areas[i].pages == 0 &&
            model.areas[i].head == (base + G - 1) / G) {
            expected = model_empty(i) ? TIER_OK : TIER_ERR_IN_USE;
            if (expected == TIER_OK) {
                model_remove(i);
            }
        }
    }
    cr_assert_eq(tier_heap_remove(&heap, &arena[base]), expected);
    return expected;
}

static void free_all(void)
{
    for (size_t i = 0; i < ALLOCS; i++) {
        if (model.allocs[i].granules != 0) {
            cr_assert_eq(free_any(address_of(model.allocs[i].first)), TIER_OK);
        }
    }
    verify();
}

/* --- Areas ---------------------------------------------------------------- */

Test(heap, uses_all_of_4_kib_but_its_head_and_bits)
{
    const size_t usable = TIER_HEAP_USABLE_BYTES(4 * KIB);

    set_up(false);
    cr_assert_eq(add(0, 4 * KIB), TIER_OK);
    cr_assert_eq(usable, most_granules(4 * KIB) * G);
#if TIERALLOC_MIN_ALIGN == 8
    cr_assert_eq(usable, UINTPTR_MAX > 0xFFFFFFFFU ? 3912U : 3936U);
#endif
    for (size_t i = 0; i < usable / G; i++) {
        cr_assert_not_null(alloc(i % (G + 1)));
    }
    cr_assert_null(alloc(1));
    verify();
    free_all();
    cr_assert_not_null(alloc(usable));
    cr_assert_null(alloc(0));
    free_all();
    cr_assert_null(alloc(usable + 1));
    verify();
}

Test(heap, accepts_any_base_and_any_length_with_room_for_a_granule)
{
    for (size_t base = 0; base <= 2 * G; base++) {
        for (size_t bytes = 0; bytes < 3 * WORD_BITS * G; bytes++) {
            size_t begin = 0;
            size_t end = 0;

            cut(base, bytes, &begin, &end);
            tier_heap_init(&heap, NULL);
            memset(arena, 0xA5, base + bytes + 64);
            const enum tier_status status =
                tier_heap_add(&heap, &arena[base], bytes);
            const size_t granules =
                end > begin ? most_granules((end - begin) * G) : 0;

            cr_assert_eq(status, granules == 0 ? TIER_ERR_INVALID : TIER_OK);
            cr_assert(tier_heap_check(&heap));
            void *const all = tier_heap_alloc(&heap, granules * G);

            cr_assert(all ==
                      (granules == 0 ? NULL : address_of(end - granules)));
            cr_assert_null(tier_heap_alloc(&heap, 0));
            cr_assert(test_all(arena, 0xA5, begin * G));
            cr_assert(test_all(address_of(end - granules), 0xA5,
                               base + bytes + 64 - (end - granules) * G));
        }
    }
}

Test(heap, says_how_many_bytes_an_area_takes_and_holds)
{
    for (size_t bytes = TIER_HEAP_AREA_MIN; bytes < 64 * KIB; bytes += G) {
        const size_t usable = TIER_HEAP_USABLE_BYTES(bytes);

        cr_assert_eq(usable, most_granules(bytes) * G);
        cr_assert(TIER_HEAP_AREA_BYTES(usable) <= bytes);
        cr_assert(TIER_HEAP_AREA_BYTES(usable + 1) > bytes);
    }
    cr_assert_eq(most_granules(TIER_HEAP_AREA_MIN - G), 0U);
    cr_assert_eq(TIER_HEAP_BYTES_MAX, most_granules(TIER_BLOCK_MAX) * G);
}

Test(heap, refuses_memory_that_it_cannot_hold)
{
    const uintptr_t top = UINTPTR_MAX - 1023;

    set_up(false);
    cr_assert_eq(tier_heap_add(&heap, NULL, 4 * KIB), TIER_ERR_INVALID);
    cr_assert_eq(tier_heap_add(&heap, arena, 0), TIER_ERR_INVALID);
    cr_assert_eq(tier_heap_add(&heap, arena, TIER_HEAP_AREA_MIN - 1),
                 TIER_ERR_INVALID);
    cr_assert_eq(tier_heap_add(&heap, (void *)top, 1025), TIER_ERR_OVERFLOW);
    cr_assert_eq(tier_heap_add(&heap, (void *)UINTPTR_MAX, 1),
                 TIER_ERR_INVALID);
    cr_assert_eq(tier_heap_add(&heap, (void *)UINTPTR_MAX, SIZE_MAX),
                 TIER_ERR_OVERFLOW);
    cr_assert_eq(tier_heap_add(&heap, arena, SIZE_MAX), TIER_ERR_OVERFLOW);
    verify();
}

Test(heap, refuses_memory_that_overlaps_an_area)
{
    size_t refused = 0;
    const size_t begin = 400;
    const size_t end = 800;

    for (size_t base = begin - 260; base <= end + 20; base += 4) {
        for (size_t bytes = 160; bytes < 700; bytes += 20) {
            size_t from = 0;
            size_t to = 0;

            set_up(false);
            cr_assert_eq(add(begin, end - begin), TIER_OK);
            cut(base, bytes, &from, &to);
            const bool overlaps = from * G < end && to * G > begin;

            cr_assert_eq(add(base, bytes),
                         overlaps ? TIER_ERR_OVERLAP : TIER_OK);
            verify();
            refused += overlaps;
        }
    }
    cr_assert(refused > 1000);

    /* Up to the last byte of all memory, and not one further. */
    const uintptr_t base = (uintptr_t)arena;

    cr_assert_eq(tier_heap_add(&heap, arena, UINTPTR_MAX - base + 1),
                 TIER_ERR_OVERLAP);
    cr_assert_eq(tier_heap_add(&heap, arena, UINTPTR_MAX - base + 2),
                 TIER_ERR_OVERFLOW);
}

Test(heap, keeps_areas_in_address_order)
{
    static const size_t order[] = {3, 1, 4, 0, 2};

    set_up(false);
    for (size_t i = 0; i < COUNT(order); i++) {
        cr_assert_eq(add(order[i] * 512, 512), TIER_OK);
        verify();
    }
    for (size_t i = 0; i < COUNT(order) * 3; i++) {
        cr_assert_not_null(alloc(100));
    }
    for (size_t i = 0; i < COUNT(order); i++) {
        cr_assert_eq(add(order[i] * 512, 512), TIER_ERR_OVERLAP);
    }
    verify();
}

Test(heap, never_allocates_across_areas_that_touch)
{
    const size_t usable = TIER_HEAP_USABLE_BYTES((size_t)512);

    set_up(false);
    cr_assert_eq(add(0, 512), TIER_OK);
    cr_assert_eq(add(512, 512), TIER_OK);
    cr_assert_null(alloc(usable + 1));
    unsigned char *const first = alloc(G);

    cr_assert_eq(resize(first, usable), TIER_OK);
    cr_assert_eq(resize(first, usable + 1), TIER_ERR_TOO_LARGE);
    cr_assert_not_null(alloc(usable));
    cr_assert_null(alloc(0));
    free_all();
}

Test(heap, takes_an_area_away_only_when_it_is_empty)
{
    set_up(true);
    cr_assert_eq(add(3, 512), TIER_OK);
    cr_assert_eq(add(1024, 512), TIER_OK);
    cr_assert_eq(add(2048, 512), TIER_OK);
    (void)alloc(300);
    unsigned char *const second = alloc(300);
    unsigned char *const sourced = alloc(600);

    cr_assert_eq(remove_area(1024), TIER_ERR_IN_USE);
    cr_assert_eq(remove_area(1024 + G), TIER_ERR_FOREIGN);
    cr_assert_eq(remove_area(0), TIER_ERR_FOREIGN);
    cr_assert_eq(remove_area(4096), TIER_ERR_FOREIGN);
    cr_assert_eq(free_any(sourced), TIER_OK);
    cr_assert_eq(remove_area(ADDED_PAGES * TIER_PAGE_SIZE), TIER_ERR_FOREIGN,
                 "an area from the source is empty, and not the caller's");
    cr_assert_eq(tier_heap_remove(&heap, NULL), TIER_ERR_FOREIGN);
    cr_assert_eq(free_any(second), TIER_OK);
    verify();
    cr_assert_eq(remove_area(1024), TIER_OK);
    verify();
    cr_assert_eq(free_any(second), TIER_ERR_FOREIGN);
    cr_assert_eq(remove_area(1024), TIER_ERR_FOREIGN);
    cr_assert_eq(remove_area(2048), TIER_OK);
    free_all();
    cr_assert_eq(remove_area(3), TIER_OK, "the base that was given");
    verify();
    cr_assert_eq(add(0, 3 * KIB), TIER_OK);
    verify();
}

/* --- Allocation ----------------------------------------------------------- */

Test(heap, gives_the_lowest_address_that_fits)
{
    unsigned char *at[6];

    set_up(false);
    cr_assert_eq(add(0, KIB), TIER_OK);
    for (size_t i = 0; i < COUNT(at); i++) {
        at[i] = alloc((i + 1) * G);
    }
    cr_assert_eq(free_any(at[4]), TIER_OK);
    cr_assert_eq(free_any(at[2]), TIER_OK);
    cr_assert_eq(free_any(at[0]), TIER_OK);
    cr_assert_eq(alloc(4 * G), at[4], "holes of 1 and 3 are too small");
    cr_assert_eq(alloc(2 * G), at[2], "the hole of 1 is too small");
    cr_assert_eq(alloc(G), at[0]);
    cr_assert_eq(alloc(G), at[2] + 2 * G);
    cr_assert_eq(alloc(1), at[4] + 4 * G);
    verify();
}

Test(heap, joins_free_neighbours)
{
    unsigned char *at[4];

    for (size_t middle = 0; middle < COUNT(at); middle++) {
        set_up(false);
        cr_assert_eq(add(0, KIB), TIER_OK);
        for (size_t i = 0; i < COUNT(at); i++) {
            at[i] = alloc(3 * G);
        }
        for (size_t i = 0; i < COUNT(at); i++) {
            if (i != middle) {
                cr_assert_eq(free_any(at[i]), TIER_OK);
            }
        }
        cr_assert_eq(free_any(at[middle]), TIER_OK);
        verify();
        cr_assert_eq(alloc(12 * G), at[0]);
    }
}

Test(heap, aligns_to_any_power_of_two)
{
    set_up(false);
    cr_assert_eq(add(5 * G, 4 * TIER_PAGE_SIZE), TIER_OK);
    for (size_t alignment = 1; alignment <= TIER_PAGE_SIZE; alignment *= 2) {
        unsigned char *const low = alloc_aligned(3, alignment);

        cr_assert_not_null(low);
        cr_assert_not_null(alloc(1));
        verify();
    }
    for (size_t alignment = sizeof(arena) * 2; alignment != 0; alignment *= 2) {
        cr_assert_null(tier_heap_alloc_aligned(&heap, 1, alignment));
        cr_assert_null(tier_heap_alloc_aligned(&heap, SIZE_MAX, alignment));
        model.failed_allocs += 2;
    }
    verify();
}

Test(heap, refuses_an_alignment_that_is_no_power_of_two)
{
    set_up(true);
    cr_assert_eq(add(0, KIB), TIER_OK);
    for (size_t alignment = 0; alignment < 40; alignment++) {
        if (alignment == 0 || (alignment & (alignment - 1)) != 0) {
            cr_assert_null(tier_heap_alloc_aligned(&heap, 1, alignment));
            model.failed_allocs++;
        }
    }
    cr_assert_null(tier_heap_alloc_aligned(&heap, 1, SIZE_MAX));
    model.failed_allocs++;
    cr_assert_eq(source.asked, 0U);
    verify();
}

Test(heap, refuses_every_size_that_it_cannot_have)
{
    static const size_t sizes[] = {
        SIZE_MAX,           SIZE_MAX - 1,     SIZE_MAX - G + 1,
        SIZE_MAX - G,       SIZE_MAX / 2 + 1, SIZE_MAX / 2,
        TIER_BLOCK_MAX + 1, TIER_BLOCK_MAX,   TIER_HEAP_BYTES_MAX + 1};

    set_up(true);
    cr_assert_eq(add(0, TIER_HEAP_AREA_MIN), TIER_OK);
    unsigned char *const one = alloc(1);

    for (size_t i = 0; i < COUNT(sizes); i++) {
        cr_assert_null(tier_heap_alloc(&heap, sizes[i]));
        cr_assert_null(
            tier_heap_alloc_aligned(&heap, sizes[i], TIER_PAGE_SIZE));
        model.failed_allocs += 2;
        cr_assert_eq(resize(one, sizes[i]), TIER_ERR_TOO_LARGE);
    }
    cr_assert_eq(source.asked, 0U, "no source has that much");
    source.most = 0;
    cr_assert_null(tier_heap_alloc(&heap, TIER_HEAP_BYTES_MAX));
    model.failed_allocs++;
    cr_assert_eq(source.wanted, (size_t)1 << TIERALLOC_MAX_ORDER);
    verify();
}

Test(heap, says_what_is_wrong_with_every_address)
{
    static unsigned char before[2 * KIB];

    set_up(false);
    cr_assert_eq(add(64, KIB), TIER_OK);
    cr_assert_eq(add(64 + KIB, 512), TIER_OK);
    unsigned char *const hole = alloc(5 * G);

    (void)alloc(1);
    (void)alloc(7 * G);
    cr_assert_eq(free_any(hole), TIER_OK);
    memcpy(before, arena, sizeof(before));
    for (size_t i = 0; i < sizeof(before); i++) {
        const enum tier_status status = model_status(&arena[i]);

        if (status != TIER_OK) {
            cr_assert_eq(tier_heap_usable_size(&heap, &arena[i]), 0U);
            cr_assert_eq(resize(&arena[i], 1), status);
            cr_assert_eq(free_any(&arena[i]), status);
        }
    }
    cr_assert_eq(free_any((void *)UINTPTR_MAX), TIER_ERR_FOREIGN);
    cr_assert_eq(free_any((void *)(uintptr_t)1), TIER_ERR_FOREIGN);
    cr_assert_eq(free_any(&heap), TIER_ERR_FOREIGN);
    cr_assert_eq(resize(NULL, 1), TIER_ERR_FOREIGN);
    cr_assert_eq(tier_heap_usable_size(&heap, NULL), 0U);
    cr_assert_eq(free_any(NULL), TIER_OK);
    cr_assert(memcmp(before, arena, sizeof(before)) == 0);
    verify();
    free_all();
}

Test(heap, refuses_a_second_free)
{
    set_up(false);
    cr_assert_eq(add(0, KIB), TIER_OK);
    unsigned char *const one = alloc(40);

    cr_assert_eq(free_any(one), TIER_OK);
    cr_assert_eq(free_any(one), TIER_ERR_DOUBLE_FREE);
    cr_assert_eq(alloc(24), one);
    cr_assert_eq(free_any(one), TIER_OK);
    cr_assert_eq(free_any(one), TIER_ERR_DOUBLE_FREE);
    verify();
}

Test(heap, resizes_in_place)
{
    set_up(false);
    cr_assert_eq(add(0, KIB), TIER_OK);
    unsigned char *const one = alloc(4 * G);
    unsigned char *const two = alloc(2 * G);

    cr_assert_eq(resize(one, 4 * G), TIER_OK);
    cr_assert_eq(resize(one, 4 * G + 1), TIER_ERR_IN_USE);
    cr_assert_eq(resize(one, 3 * G - 1), TIER_OK);
    cr_assert_eq(tier_heap_usable_size(&heap, one), 3 * G);
    verify();
    cr_assert_eq(alloc(1), one + 3 * G, "what was cut off is free");
    cr_assert_eq(resize(one, 0), TIER_OK);
    cr_assert_eq(tier_heap_usable_size(&heap, one), G);
    cr_assert_eq(resize(one, 3 * G), TIER_OK);
    cr_assert_eq(resize(one, 4 * G), TIER_ERR_IN_USE);
    verify();
    cr_assert_eq(resize(two, KIB), TIER_ERR_TOO_LARGE);
    cr_assert_eq(resize(two, 20 * G), TIER_OK);
    verify();
    free_all();
}

/* --- The source ----------------------------------------------------------- */

/* Where an area may have all pages of the arena. */
#if TIERALLOC_MAX_ORDER >= 4 && TIERALLOC_PAGE_SHIFT >= 11
Test(heap, takes_a_few_pages_at_a_time)
{
    set_up(true);
    cr_assert_not_null(alloc(1));
    cr_assert_eq(source.asked, 1U);
    cr_assert_eq(source.wanted, GROW);
    cr_assert_not_null(alloc(TIER_HEAP_USABLE_BYTES(6 * TIER_PAGE_SIZE)));
    cr_assert_eq(source.asked, 2U);
    cr_assert_eq(source.wanted, 6U);
    cr_assert_not_null(alloc(TIER_HEAP_USABLE_BYTES(5 * TIER_PAGE_SIZE)));
    cr_assert_eq(source.asked, 3U);
    cr_assert_eq(source.wanted, 5U);
    verify();

    /* One page is left: what a request needs will do. */
    cr_assert_not_null(
        alloc(TIER_HEAP_USABLE_BYTES(GROW * TIER_PAGE_SIZE) - G));
    cr_assert_not_null(alloc(TIER_HEAP_USABLE_BYTES(TIER_PAGE_SIZE)));
    cr_assert_eq(source.asked, 5U);
    cr_assert_eq(source.wanted, 1U);
    verify();
    free_all();
}

Test(heap, needs_no_more_pages_than_an_alignment_can_cost)
{
    for (size_t alignment = 1; alignment <= 8 * TIER_PAGE_SIZE;
         alignment *= 2) {
        for (size_t bytes = 1; bytes <= 3 * TIER_PAGE_SIZE; bytes += 500) {
            set_up(true);
            source.from_the_top = (bytes & 1) != 0;
            source.most = 0;
            cr_assert_null(alloc_aligned(bytes, alignment));
            cr_assert_eq(source.wanted,
                         model_need(granules_of(bytes), alignment));
            source.most = SOURCE_PAGES;
            cr_assert_not_null(alloc_aligned(bytes, alignment));
            verify();
        }
    }
}

Test(heap, gives_an_empty_area_back_before_it_fails)
{
    set_up(true);
    unsigned char *const small = alloc(1);

    cr_assert_eq(free_any(small), TIER_OK);
    cr_assert_not_null(
        alloc(TIER_HEAP_USABLE_BYTES(SOURCE_PAGES * TIER_PAGE_SIZE)));
    cr_assert_eq(source.asked, 3U);
    cr_assert_eq(source.given_back, 1U);
    verify();
    cr_assert_null(alloc(1));
    verify();
}

/* Fill, free every second, fill again; the heap takes it as it comes. */
static size_t run_with_a_source(void)
{
    size_t got = 0;

    for (size_t round = 0; round < 2; round++) {
        for (size_t i = 0; i < 40; i++) {
            const size_t bytes = 1 + below(2 * (uint32_t)TIER_PAGE_SIZE);

            got += alloc_aligned(bytes, (size_t)1 << below(12)) != NULL;
            verify();
        }
        for (size_t i = round; i < ALLOCS; i += 2) {
            if (model.allocs[i].granules != 0) {
                (void)free_any(address_of(model.allocs[i].first));
                verify();
            }
        }
    }
    return got;
}

Test(heap, survives_each_failure_of_its_source)
{
    size_t asked = 1;

    for (size_t fails_at = 1; fails_at <= asked; fails_at++) {
        set_up(true);
        source.fails_at = fails_at;
        cr_assert(run_with_a_source() > 0);
        asked = source.asked;
        free_all();
        trim();
        verify();
        cr_assert_eq(source_find(source.held, SOURCE_PAGES), 0U);
    }
    cr_assert(asked > 10);
}

Test(heap, uses_every_page_before_it_fails)
{
    struct tier_heap_stats stats;

    set_up(true);
    while (alloc(100 + below(900)) != NULL) {
        verify();
    }
    tier_heap_stats(&heap, &stats);
    cr_assert_eq(stats.pages, SOURCE_PAGES + 0U);
    cr_assert(stats.live_bytes >= stats.total_bytes / 100 * 94);
    cr_assert(stats.total_bytes >= SOURCE_PAGES * TIER_PAGE_SIZE / 100 * 95);
    free_all();
    trim();
    cr_assert_eq(source_find(source.held, SOURCE_PAGES), 0U);
}
#endif

Test(heap, keeps_one_empty_area)
{
    const size_t most = TIER_HEAP_USABLE_BYTES(GROW * TIER_PAGE_SIZE);
    unsigned char *at[3];

    set_up(true);
    for (size_t i = 0; i < COUNT(at); i++) {
        at[i] = alloc(most);
    }
    cr_assert_eq(free_any(at[1]), TIER_OK);
    cr_assert_eq(source.given_back, 0U);
    for (size_t i = 0; i < 20; i++) {
        cr_assert_eq(alloc(1), at[1]);
        cr_assert_eq(free_any(at[1]), TIER_OK);
    }
    cr_assert_eq(source.asked, 3U, "pairs at the edge must not ask again");
    cr_assert_eq(source.given_back, 0U);
    cr_assert_eq(free_any(at[0]), TIER_OK);
    cr_assert_eq(source.given_back, 1U);
    cr_assert_eq(free_any(at[1]), TIER_ERR_FOREIGN);
    cr_assert_eq(free_any(at[0]), TIER_ERR_DOUBLE_FREE);
    verify();
    cr_assert_eq(free_any(at[2]), TIER_OK);
    cr_assert_eq(source.given_back, 2U);
    verify();
    cr_assert_eq(tier_heap_trim(&heap), GROW);
    (void)model_release(AREAS);
    cr_assert_eq(tier_heap_trim(&heap), 0U);
    verify();
}

Test(heap, never_gives_back_what_was_added)
{
    set_up(true);
    cr_assert_eq(add(0, KIB), TIER_OK);
    unsigned char *const added = alloc(TIER_HEAP_USABLE_BYTES(KIB));
    unsigned char *const sourced = alloc(100);

    cr_assert_eq(free_any(sourced), TIER_OK);
    cr_assert_eq(free_any(added), TIER_OK);
    cr_assert_eq(source.given_back, 0U);
    trim();
    verify();
    cr_assert_eq(source.given_back, 1U);
    cr_assert_eq(alloc(1), added);
    verify();
}

/* --- Random runs ---------------------------------------------------------- */

/* Mostly small, now and then larger than any area. */
static size_t some_bytes(void)
{
    switch (below(8)) {
    case 0:
        return below(4 * (uint32_t)TIER_PAGE_SIZE);
    case 1:
        return below(2000);
    case 2:
        return below(4) != 0 ? below(64) : SIZE_MAX - below(64);
    default:
        return below(200);
    }
}

/* The start of an allocation, or any address of the arena. */
static void *some_memory(void)
{
    const size_t first = below(ALLOCS);

    for (size_t i = 0; i < ALLOCS && below(32) != 0; i++) {
        const size_t at = (first + i) % ALLOCS;

        if (model.allocs[at].granules != 0) {
            return address_of(model.allocs[at].first);
        }
    }
    return &arena[below((uint32_t)sizeof(arena))];
}

static void add_or_remove_some(void)
{
    const size_t area = below(AREAS);
    const size_t base = below(ADDED_PAGES * (uint32_t)TIER_PAGE_SIZE - 8000);
    const size_t bytes = 120 + below(7000);
    size_t begin = 0;
    size_t end = 0;

    if (below(3) == 0) {
        (void)remove_area(model.areas[area].end != 0 ? model.areas[area].base
                                                     : base);
        return;
    }
    bool overlaps = false;

    cut(base, bytes, &begin, &end);
    for (size_t i = 0; i < AREAS; i++) {
        overlaps |= model.areas[i].end > begin && model.areas[i].head < end;
    }
    cr_assert_eq(add(base, bytes), overlaps ? TIER_ERR_OVERLAP : TIER_OK);
}

static void use_some_memory(void)
{
    unsigned char *const memory = (unsigned char *)some_memory();
    const size_t at = (size_t)(memory - arena) / G;
    const size_t usable =
        model_status(memory) == TIER_OK
            ? model.allocs[model.what[at] - FIRST_ALLOC].granules * G
            : 0;

    cr_assert_eq(tier_heap_usable_size(&heap, memory), usable);
}

static void random_step(void)
{
    const uint32_t what = below(100);

    if (what < 40) {
        if (model_unused() < ALLOCS) {
            (void)alloc(some_bytes());
        }
    } else if (what < 47) {
        if (model_unused() < ALLOCS) {
            (void)alloc_aligned(some_bytes(), (size_t)1 << below(14));
        }
    } else if (what < 82) {
        (void)free_any(some_memory());
    } else if (what < 94) {
        (void)resize(some_memory(), some_bytes());
    } else if (what < 96) {
        use_some_memory();
    } else if (what < 99) {
        add_or_remove_some();
    } else {
        trim();
        source.most = below(4) == 0 ? below(SOURCE_PAGES) : SOURCE_PAGES;
        source.from_the_top = below(2) == 0;
    }
}

static void run_random(bool with_source, uint64_t seed)
{
    set_up(with_source);
    random_state += seed;
    for (size_t step = 0; step < TIERALLOC_TEST_STEPS / 4; step++) {
        random_step();
        verify();
        if (step % 1000 == 999) {
            free_all();
        }
    }
    free_all();
}

Test(heap, agrees_with_a_model_of_every_granule)
{
    run_random(false, 0);
    run_random(false, 1);
}

Test(heap, agrees_with_the_model_over_a_source)
{
    run_random(true, 2);
    run_random(true, 3);
}

/* --- Inspection ----------------------------------------------------------- */

/* What a dump wrote. */
static struct {
    char text[512];
    size_t length;
} dump;

static void put(void *context, char character)
{
    cr_assert(context == &dump);
    cr_assert(dump.length + 1 < sizeof(dump.text));
    dump.text[dump.length++] = character;
    dump.text[dump.length] = '\0';
}

Test(heap, dumps_its_counters)
{
    set_up(true);
    dump.length = 0;
    tier_heap_dump(&heap, put, &dump);
    cr_assert(strcmp(dump.text,
                     "heap: areas 0, pages from the source 0, bytes 0, free 0, "
                     "largest free 0\nallocations in use 0, failed 0, frees "
                     "refused 0\n") == 0);
    cr_assert_eq(add(0, TIER_HEAP_AREA_BYTES((size_t)640)), TIER_OK);
    unsigned char *const first = alloc(160);

    (void)alloc(32);
    cr_assert_eq(free_any(first), TIER_OK);
    cr_assert_eq(free_any(first), TIER_ERR_DOUBLE_FREE);
    source.most = 0;
    cr_assert_null(alloc(641));
    cr_assert_null(alloc(700));
    cr_assert_null(alloc(641));
    dump.length = 0;
    tier_heap_dump(&heap, put, &dump);
    cr_assert(strcmp(dump.text,
                     "heap: areas 1, pages from the source 0, bytes 640, free "
                     "608, largest free 448\nallocations in use 1, failed 3, "
                     "frees refused 1\n") == 0);
}

Test(heap, may_move)
{
    static struct tier_heap moved;

    set_up(true);
    cr_assert_eq(add(0, KIB), TIER_OK);
    unsigned char *const one = alloc(1);

    memcpy(&moved, &heap, sizeof(heap));
    memset(&heap, 0xA5, sizeof(heap));
    cr_assert(tier_heap_check(&moved));
    cr_assert_eq(tier_heap_free(&moved, one), TIER_OK);
    cr_assert_eq(tier_heap_remove(&moved, arena), TIER_OK);
    cr_assert(tier_heap_check(&moved));
}

/* Turn each bit over in turn: the check sees it, and sees that it is right. */
static void damage(void *memory, size_t bytes)
{
    unsigned char *const at = (unsigned char *)memory;

    for (size_t bit = 0; bit < bytes * 8; bit++) {
        const unsigned char right = at[bit / 8];

        at[bit / 8] = (unsigned char)(right ^ 1U << bit % 8);
        cr_assert(!tier_heap_check(&heap), "bit %u", (unsigned)bit);
        at[bit / 8] = right;
    }
    cr_assert(tier_heap_check(&heap));
}

/* Damage all that an area has but its hint. */
static void damage_area(struct tier_heap_area *area)
{
    const size_t words = (area->granules + WORD_BITS - 1) / WORD_BITS;

    damage(&area->link, sizeof(area->link));
    damage(&area->memory, sizeof(area->memory));
    damage(&area->granules, sizeof(area->granules));
    damage(&area->pages, sizeof(area->pages));
    damage(&area->live, sizeof(area->live));
    damage(area + 1, words * 2 * sizeof(uintptr_t));
}

Test(heap, check_sees_every_wrong_bit)
{
    set_up(true);
    cr_assert_eq(add(0, KIB), TIER_OK);
    cr_assert_eq(add(KIB, 700), TIER_OK);
    unsigned char *at[20];

    for (size_t i = 0; i < COUNT(at); i++) {
        at[i] = alloc(1 + i * 3);
    }
    for (size_t i = 0; i < COUNT(at); i += 3) {
        cr_assert_eq(free_any(at[i]), TIER_OK);
    }
    (void)alloc(1);
    (void)alloc(TIER_PAGE_SIZE);
    verify();
    damage(&heap.link, sizeof(heap.link));
    for (struct tier_heap_area *area = heap.link.next; area != NULL;
         area = area->link.next) {
        damage_area(area);
    }
}

Test(heap, check_sees_a_wrong_bit_between_two_words)
{
    set_up(false);
    cr_assert_eq(add(0, 4 * KIB), TIER_OK);
    (void)alloc((WORD_BITS - 1) * G);
    (void)alloc(2 * G);
    damage_area(heap.link.next);
}

Test(heap, check_sees_a_hint_above_a_free_granule)
{
    set_up(false);
    cr_assert_eq(add(0, KIB), TIER_OK);
    unsigned char *const first = alloc(1);

    (void)alloc(1);
    struct tier_heap_area *const area = heap.link.next;

    for (size_t hint = 0; hint < 200; hint++) {
        area->hint = hint;
        cr_assert_eq(tier_heap_check(&heap), hint <= 2);
    }
    area->hint = 2;
    cr_assert_eq(free_any(first), TIER_OK);
    cr_assert_eq(area->hint, 0U);
    verify();
}

Test(heap, does_not_look_again_at_what_is_full)
{
    set_up(false);
    cr_assert_eq(add(0, KIB), TIER_OK);
    const struct tier_heap_area *const area = heap.link.next;

    for (size_t i = 0; i < area->granules; i++) {
        (void)alloc(1);
        cr_assert_eq(area->hint, i);
    }
    cr_assert_null(alloc(1));
    cr_assert_eq(area->hint, area->granules);
    free_all();
    cr_assert_eq(area->hint, 0U);
}

/* Seal a link or a head again after a change. */
static void set_next(struct tier_heap_link *link, struct tier_heap_area *to)
{
    link->seal ^= (uintptr_t)link->next ^ (uintptr_t)to;
    link->next = to;
}

Test(heap, check_sees_a_wrong_list_that_is_sealed)
{
    set_up(false);
    cr_assert_eq(add(0, KIB), TIER_OK);
    cr_assert_eq(add(KIB, KIB), TIER_OK);
    struct tier_heap_area *const low = heap.link.next;
    struct tier_heap_area *const high = low->link.next;

    set_next(&high->link, low);
    cr_assert(!tier_heap_check(&heap), "a circle");
    set_next(&high->link, high);
    cr_assert(!tier_heap_check(&heap), "a circle of one");
    set_next(&low->link, NULL);
    set_next(&high->link, low);
    set_next(&heap.link, high);
    cr_assert(!tier_heap_check(&heap), "descending");
    set_next(&high->link, NULL);
    set_next(&low->link, high);
    set_next(&heap.link, low);
    cr_assert(tier_heap_check(&heap));
    low->memory += KIB;
    low->link.seal ^= low->memory ^ (low->memory - KIB);
    cr_assert(!tier_heap_check(&heap), "areas that overlap");
    low->memory -= KIB;
    low->link.seal ^= low->memory ^ (low->memory + KIB);
    low->pages = 1;
    low->link.seal ^= 1;
    cr_assert(tier_heap_check(&heap), "one empty area from the source");
    high->pages = 1;
    high->link.seal ^= 1;
    cr_assert(!tier_heap_check(&heap), "two of them");
}
