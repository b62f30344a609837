/*
 * examples/shrinker.c - a cache of decoded tiles that gives way to who needs
 * memory.
 *
 * SPDX-License-Identifier: MIT
 *
 * A map is drawn from tiles. A tile is decoded on a miss and kept as long as
 * there is memory for it: as a shrinker, the cache gives up the tiles that were
 * used longest ago when a request would fail otherwise. Meanwhile a worker makes
 * ever longer rows of samples. It never sees a failure and knows nothing of the
 * cache; the tiles it drives out are decoded again when somebody looks at them.
 *
 * That is no luck. With the tiles gone, a row of n pages finds no place only if
 * all free pages lie in gaps of less than n, at most one more than there are
 * rows; for the last row, of 17 pages, 144 of 255 pages in 9 gaps, and the 8 rows
 * before it take no more than 100.
 *
 * Exit code 0: no request failed, every tile and row was right, and nothing was
 * left; 1: otherwise.
 */
#define TIERALLOC_IMPLEMENTATION
#include "hosted.h"

#include <stdio.h>

#define MEMORY_BYTES ((size_t)1024 * 1024)
#define TILES        256
#define ROWS         9
#define VIEWS        24 /* tiles drawn at a time */
#define DRAWINGS     8  /* for each row */

static struct tier_allocator allocator;

/* --- Tiles ---------------------------------------------------------------- */

/* A decoded tile: pixels that follow from its number alone. */
struct tile {
    struct tile *newer;
    struct tile *older;
    unsigned number;
    unsigned bytes; /* of pixels */
    unsigned char pixel[];
};

/* The tiles that are kept, those used longest ago last. */
struct tile_cache {
    struct tier_shrinker shrinker;
    struct tile *tile[TILES]; /* by number; NULL: not decoded */
    struct tile *newest;
    struct tile *oldest;
    size_t bytes; /* of all tiles that are kept */
    size_t hits;
    size_t rebuilds;
    size_t given_up; /* bytes */
};

static unsigned char pixel_of(unsigned number, unsigned at)
{
    return (unsigned char)((number * 2654435761U + at * 40503U) >> 13);
}

/* Tiles are from 1 KiB to 12 KiB large. */
static unsigned bytes_of(unsigned number)
{
    return 1024 + number * 7919U % (11 * 1024);
}

static struct tile *decode(unsigned number)
{
    unsigned bytes = bytes_of(number);
    struct tile *tile =
        (struct tile *)tier_alloc(&allocator, sizeof(*tile) + bytes);

    if (tile == NULL) {
        return NULL;
    }
    tile->number = number;
    tile->bytes = bytes;
    for (unsigned i = 0; i < bytes; i++) {
        tile->pixel[i] = pixel_of(number, i);
    }
    return tile;
}

static bool is_right(const struct tile *tile)
{
    for (unsigned i = 0; i < tile->bytes; i++) {
        if (tile->pixel[i] != pixel_of(tile->number, i)) {
            return false;
        }
    }
    return tile->bytes == bytes_of(tile->number);
}

/* --- The cache ------------------------------------------------------------ */

static void insert(struct tile_cache *cache, struct tile *tile)
{
    tile->older = cache->newest;
    tile->newer = NULL;
    *(tile->older != NULL ? &tile->older->newer : &cache->oldest) = tile;
    cache->newest = tile;
    cache->tile[tile->number] = tile;
    cache->bytes += tier_usable_size(&allocator, tile);
}

static void take_out(struct tile_cache *cache, struct tile *tile)
{
    *(tile->older != NULL ? &tile->older->newer : &cache->oldest) = tile->newer;
    *(tile->newer != NULL ? &tile->newer->older : &cache->newest) = tile->older;
    cache->tile[tile->number] = NULL;
    cache->bytes -= tier_usable_size(&allocator, tile);
}

/* How many bytes the cache could give up. */
static size_t count_tiles(void *context)
{
    return ((struct tile_cache *)context)->bytes;
}

/* Give up `bytes` bytes or a little more, of the tiles used longest ago. */
static size_t give_up_tiles(void *context, size_t bytes)
{
    struct tile_cache *cache = (struct tile_cache *)context;
    size_t before = cache->bytes;

    while (cache->oldest != NULL && before - cache->bytes < bytes) {
        struct tile *tile = cache->oldest;

        take_out(cache, tile);
        (void)tier_free(&allocator, tile);
    }
    cache->given_up += before - cache->bytes;
    return before - cache->bytes;
}

/*
 * Look a tile up, decode it on a miss. It is good until the next request for
 * memory, which may give it up. NULL when there is no memory.
 */
static const struct tile *look_up(struct tile_cache *cache, unsigned number)
{
    struct tile *tile = cache->tile[number];

    if (tile != NULL) {
        cache->hits++;
        take_out(cache, tile);
    } else {
        cache->rebuilds++;
        tile = decode(number);
    }
    if (tile != NULL) {
        insert(cache, tile);
    }
    return tile;
}

/* --- The worker ----------------------------------------------------------- */

/* A row of samples, which cannot be had again. */
struct row {
    unsigned *sample;
    size_t samples;
};

static unsigned sample_of(size_t row, size_t at)
{
    return (unsigned)(row * 65599 + at * 31);
}

/* Make a row: the first has 34 KiB, each 4 KiB more than the one before it. */
static bool make_row(struct row *row, size_t number)
{
    row->samples = (34 + 4 * number) * 1024 / sizeof(*row->sample);
    row->sample =
        (unsigned *)tier_alloc(&allocator, row->samples * sizeof(*row->sample));
    for (size_t i = 0; row->sample != NULL && i < row->samples; i++) {
        row->sample[i] = sample_of(number, i);
    }
    return row->sample != NULL;
}

static bool row_is_right(const struct row *row, size_t number)
{
    for (size_t i = 0; i < row->samples; i++) {
        if (row->sample[i] != sample_of(number, i)) {
            return false;
        }
    }
    return true;
}

/* Draw some tiles, near to each other and to those drawn before. */
static bool draw(struct tile_cache *cache, unsigned at)
{
    for (unsigned i = 0; i < VIEWS; i++) {
        const struct tile *tile = look_up(cache, (at * 4 + i) % TILES);

        if (tile == NULL || !is_right(tile)) {
            return false;
        }
    }
    return true;
}

/* --- The program ---------------------------------------------------------- */

/* Make all rows, drawing all the while, and look at each of them again. */
static bool work(struct tile_cache *cache)
{
    static struct row row[ROWS];
    bool right = true;

    for (unsigned i = 0; right && i < TILES; i++) {
        right = look_up(cache, i) != NULL; /* the first ones make room */
    }
    for (size_t i = 0; right && i < ROWS; i++) {
        right = make_row(&row[i], i);
        for (unsigned j = 0; right && j < DRAWINGS; j++) {
            right = draw(cache, (unsigned)i * DRAWINGS + j);
        }
    }
    for (size_t i = 0; right && i < ROWS; i++) {
        right = row_is_right(&row[i], i);
    }
    for (size_t i = 0; i < ROWS; i++) {
        (void)tier_free(&allocator, row[i].sample);
    }
    return right;
}

/* Tell what happened; true when it is what should have. */
static bool report(const struct tile_cache *cache)
{
    struct tier_stats stats;

    tier_stats(&allocator, &stats);
    printf("%zu hits, %zu rebuilds, %zu KiB given up\n", cache->hits,
           cache->rebuilds, cache->given_up / 1024);
    printf("%zu requests looked for memory, %zu failed, %zu bytes are live\n",
           stats.recoveries, stats.failed_allocs, stats.live_bytes);
    return cache->given_up > 0 && stats.recoveries > 0 &&
           stats.failed_allocs == 0 && stats.live_bytes == 0;
}

int main(void)
{
    static struct tile_cache cache;
    struct hosted_region region;

    if (hosted_init(&allocator, &region, MEMORY_BYTES) != TIER_OK) {
        return 1;
    }
    cache.shrinker.count = count_tiles;
    cache.shrinker.scan = give_up_tiles;
    cache.shrinker.cost = 1;
    cache.shrinker.context = &cache;
    cache.shrinker.name = "tiles";
    bool right = tier_add_shrinker(&allocator, &cache.shrinker) == TIER_OK &&
                 work(&cache);

    (void)give_up_tiles(&cache, SIZE_MAX);
    (void)tier_remove_shrinker(&allocator, &cache.shrinker);
    right = report(&cache) && tier_check(&allocator) && right;
    return hosted_unmap(&region) == TIER_OK && right ? 0 : 1;
}
