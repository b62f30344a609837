/*
 * examples/pagetable.c - a page table that is changed as a whole or not at all.
 *
 * SPDX-License-Identifier: MIT
 *
 * Three levels of 512 entries, as the hardware of a 64-bit machine walks them.
 * To map a range may need new tables and writes entries; it can fail at each
 * step, out of memory or at a page that is mapped already. As a transaction it
 * leaves no trace then: the steps are allocations, of tables and of a note of
 * the range, undone by a free, and writes of entries, undone by writing the old
 * one.
 *
 * The log of a transaction grows by pages of the same allocator, so that no
 * range is too long for it. Exit code 0: every failure left the table and the
 * memory as they were; 1: one did not.
 */
#define TIERALLOC_IMPLEMENTATION
#include "hosted.h"

#include <stdio.h>

#define LEVELS       3
#define INDEX_BITS   9
#define ENTRIES      ((size_t)1 << INDEX_BITS)
#define MEMORY_PAGES 192
#define LOG_RECORDS  8

/* --- The table ------------------------------------------------------------ */

/* The address of a page or of a table, which is one; bit 0: it is valid. */
typedef uintptr_t entry_t;

#define VALID ((entry_t)1)

/* A note of what was mapped by one call. */
struct range {
    struct range *next;
    size_t virtual_page;
    size_t pages;
};

struct page_table {
    struct tier_allocator *allocator;
    struct tier_page_source source; /* of the log's pages: the allocator */
    entry_t *root;
    struct range *ranges; /* newest first */
};

static entry_t *table_of(entry_t entry)
{
    return (entry_t *)(entry & ~VALID);
}

/* Which entry of a table of this level leads to a page; level 0 is the last. */
static size_t index_at(size_t page, unsigned level)
{
    return page >> (level * INDEX_BITS) & (ENTRIES - 1);
}

/* --- Steps ---------------------------------------------------------------- */

/* Undo the making of a table. */
static void free_table(void *allocator, void *table)
{
    (void)tier_free((struct tier_allocator *)allocator, table);
}

/* Undo the writing of an entry. */
static void restore_entry(void *entry, void *old)
{
    *(entry_t *)entry = (entry_t)old;
}

/* Write an entry as a step of a transaction. */
static enum tier_status write_entry(struct tier_tx *tx, entry_t *entry,
                                    entry_t value)
{
    enum tier_status status =
        tier_tx_defer(tx, restore_entry, entry, (void *)*entry);

    if (status == TIER_OK) {
        *entry = value;
    }
    return status;
}

/* An empty table: one page, aligned to a page; NULL when there is none. */
static entry_t *new_table(struct tier_allocator *allocator)
{
    entry_t *table = (entry_t *)tier_alloc_pages(allocator, 0);

    for (size_t i = 0; table != NULL && i < ENTRIES; i++) {
        table[i] = 0;
    }
    return table;
}

/* Make an empty table as a step of a transaction. */
static enum tier_status make_table(struct page_table *pt, struct tier_tx *tx,
                                   entry_t **out)
{
    /* A log that has to grow does so before there is a table to lose. */
    enum tier_status status = tier_tx_reserve(tx, 1);

    if (status != TIER_OK) {
        return status;
    }
    *out = new_table(pt->allocator);
    return *out == NULL ? TIER_ERR_NO_MEMORY
                        : tier_tx_defer(tx, free_table, pt->allocator, *out);
}

/* The table behind an entry, made as a step of the transaction if need be. */
static enum tier_status descend(struct page_table *pt, struct tier_tx *tx,
                                entry_t *entry, entry_t **table)
{
    if ((*entry & VALID) != 0) {
        *table = table_of(*entry);
        return TIER_OK;
    }
    enum tier_status status = make_table(pt, tx, table);

    return status != TIER_OK ? status
                             : write_entry(tx, entry, (entry_t)*table | VALID);
}

/* Map one page; a step, or several, of the transaction. */
static enum tier_status map_page(struct page_table *pt, struct tier_tx *tx,
                                 size_t virtual_page, size_t physical_page)
{
    entry_t *table = pt->root;

    for (unsigned level = LEVELS - 1; level > 0; level--) {
        enum tier_status status =
            descend(pt, tx, &table[index_at(virtual_page, level)], &table);

        if (status != TIER_OK) {
            return status;
        }
    }
    entry_t *entry = &table[index_at(virtual_page, 0)];

    if ((*entry & VALID) != 0) {
        return TIER_ERR_IN_USE;
    }
    return write_entry(tx, entry,
                       (entry_t)physical_page << TIERALLOC_PAGE_SHIFT | VALID);
}

/*
 * Map `pages` pages from `virtual_page` on to those from `physical_page` on:
 * all of them, or none. Returns TIER_OK, or with nothing changed
 * TIER_ERR_IN_USE or TIER_ERR_NO_MEMORY.
 */
static enum tier_status map_range(struct page_table *pt, size_t virtual_page,
                                  size_t physical_page, size_t pages)
{
    TIER_TX_GROWING(tx, LOG_RECORDS, &pt->source);
    void *note = NULL;
    enum tier_status status =
        tier_tx_alloc(&tx, pt->allocator, sizeof(struct range), &note);

    for (size_t i = 0; i < pages && status == TIER_OK; i++) {
        status = map_page(pt, &tx, virtual_page + i, physical_page + i);
    }
    if (status != TIER_OK) {
        return status; /* which rolls back */
    }
    struct range *range = (struct range *)note;

    range->next = pt->ranges;
    range->virtual_page = virtual_page;
    range->pages = pages;
    pt->ranges = range;
    tier_tx_commit(&tx);
    return TIER_OK;
}

/* --- Verification --------------------------------------------------------- */

/* What a table holds, in numbers. */
struct summary {
    uint64_t hash; /* of every entry of every table, and every note */
    size_t mapped; /* pages */
    size_t tables; /* the root included */
    size_t in_use; /* pages of the allocator */
    size_t live;   /* its bytes */
};

static uint64_t fold(uint64_t hash, uint64_t value)
{
    return (hash ^ value) * UINT64_C(0x100000001B3) ^ value >> 32; /* FNV-1a */
}

/* Add the tables of the last level that a table of the one above leads to. */
static void summarise_middle(struct summary *summary, const entry_t *middle)
{
    summary->tables++;
    for (size_t i = 0; i < ENTRIES; i++) {
        summary->hash = fold(summary->hash, middle[i]);
        if ((middle[i] & VALID) == 0) {
            continue;
        }
        summary->tables++;
        for (size_t j = 0; j < ENTRIES; j++) {
            entry_t entry = table_of(middle[i])[j];

            summary->hash = fold(summary->hash, entry);
            summary->mapped += entry & VALID;
        }
    }
}

static struct summary summarise(const struct page_table *pt)
{
    struct summary summary = {.hash = UINT64_C(0xCBF29CE484222325),
                              .tables = 1};
    struct tier_stats stats;

    for (size_t i = 0; i < ENTRIES; i++) {
        summary.hash = fold(summary.hash, pt->root[i]);
        if ((pt->root[i] & VALID) != 0) {
            summarise_middle(&summary, table_of(pt->root[i]));
        }
    }
    for (const struct range *range = pt->ranges; range != NULL;
         range = range->next) {
        summary.hash = fold(summary.hash, (uintptr_t)range);
    }
    (void)tier_trim(pt->allocator); /* what is kept ready is not in use */
    tier_stats(pt->allocator, &stats);
    summary.in_use = stats.managed_pages - stats.free_pages;
    summary.live = stats.live_bytes;
    return summary;
}

/* True when nothing changed, not one entry and not one page. */
static bool same(const struct summary *a, const struct summary *b)
{
    return a->hash == b->hash && a->mapped == b->mapped &&
           a->tables == b->tables && a->in_use == b->in_use &&
           a->live == b->live;
}

/* True when a page is mapped to this one, as the hardware would see it. */
static bool leads_to(const struct page_table *pt, size_t virtual_page,
                     size_t physical_page)
{
    const entry_t *table = pt->root;
    entry_t entry = 0;

    for (unsigned level = LEVELS; level > 0; level--) {
        entry = table[index_at(virtual_page, level - 1)];
        if ((entry & VALID) == 0) {
            return false;
        }
        table = table_of(entry);
    }
    return entry >> TIERALLOC_PAGE_SHIFT == physical_page;
}

/* --- The demonstration ---------------------------------------------------- */

/* One call of map_range, and what it should end in. */
struct attempt {
    const char *what;
    size_t virtual_page;
    size_t pages;
    enum tier_status expected;
};

static const struct attempt attempts[] = {
    {"a few pages", 0x1000, 5, TIER_OK},
    {"across a border of two levels", ENTRIES *ENTRIES - 3, 6, TIER_OK},
    {"up to a page that is mapped already", ENTRIES *ENTRIES - 9, 12,
     TIER_ERR_IN_USE},
    {"the same, the last of thousands", 0x1000 - 4000, 4001, TIER_ERR_IN_USE},
    {"more than memory has tables for", 0x100000, ENTRIES *MEMORY_PAGES,
     TIER_ERR_NO_MEMORY},
    {"some of it", 0x100000, 2000, TIER_OK},
};

#define PHYSICAL(page) ((page) + 0x80000)

/* Make one attempt; true when all came as it should. */
static bool try_to_map(struct page_table *pt, const struct attempt *attempt)
{
    struct summary before = summarise(pt);
    enum tier_status status =
        map_range(pt, attempt->virtual_page, PHYSICAL(attempt->virtual_page),
                  attempt->pages);
    struct summary after = summarise(pt);
    bool good = status == attempt->expected && tier_check(pt->allocator);

    if (status != TIER_OK) {
        good = good && same(&before, &after);
    } else {
        good = good && after.mapped == before.mapped + attempt->pages;
        for (size_t i = 0; i < attempt->pages; i++) {
            size_t page = attempt->virtual_page + i;

            good = good && leads_to(pt, page, PHYSICAL(page));
        }
    }
    printf("%s: %zu pages from 0x%zx: %s\n", attempt->what, attempt->pages,
           attempt->virtual_page, tier_status_text(status));
    printf("  before: %4zu mapped, %3zu tables, %3zu pages in use, %016llx\n",
           before.mapped, before.tables, before.in_use,
           (unsigned long long)before.hash);
    printf("  after:  %4zu mapped, %3zu tables, %3zu pages in use, %016llx%s\n",
           after.mapped, after.tables, after.in_use,
           (unsigned long long)after.hash, good ? "" : "  WRONG");
    return good;
}

/* The allocator as a source of single pages. */
static void *acquire(void *allocator, size_t pages)
{
    (void)pages; /* a log asks for one at a time */
    return tier_alloc_pages((struct tier_allocator *)allocator, 0);
}

static void release(void *allocator, void *memory, size_t pages)
{
    (void)pages;
    (void)tier_free((struct tier_allocator *)allocator, memory);
}

int main(void)
{
    static struct tier_allocator allocator;
    static struct page_table pt;
    struct hosted_region region;
    enum tier_status status =
        hosted_init(&allocator, &region, MEMORY_PAGES * TIER_PAGE_SIZE);

    if (status == TIER_OK) {
        pt.allocator = &allocator;
        pt.source.acquire = acquire;
        pt.source.release = release;
        pt.source.context = &allocator;
        pt.root = new_table(&allocator);
        status = pt.root == NULL ? TIER_ERR_NO_MEMORY : TIER_OK;
    }
    if (status != TIER_OK) {
        printf("no memory to begin with: %s\n", tier_status_text(status));
        return 1;
    }
    bool good = true;

    for (size_t i = 0; i < sizeof(attempts) / sizeof(attempts[0]); i++) {
        good = try_to_map(&pt, &attempts[i]) && good;
    }
    printf("%s\n", good ? "every failure left everything as it was"
                        : "a failure left something behind");
    return hosted_unmap(&region) == TIER_OK && good ? 0 : 1;
}
