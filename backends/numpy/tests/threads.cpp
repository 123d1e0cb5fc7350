// Tests Team and Scratch by themselves and with several concurrent callers, thread counts, CPU
// quotas and the detection of instruction sets.
#include "threads.hpp"

#ifdef __linux__
#include <dirent.h>
#include <sched.h>
#endif
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "check.hpp"
#include "processor.hpp"

namespace gru_xp_tests {
namespace {

constexpr int callers = 4;

// Calls body(caller) on several threads of the test's own at once.
template <class F>
void at_once(F body) {
    std::vector<std::thread> threads;
    for (int i = 0; i < callers; ++i) threads.emplace_back([&, i] { body(i); });
    for (auto& thread : threads) thread.join();
}

// Returns whether every piece goes through every stage once, in order, and sees what was written in
// the stages that must be complete. Each stage writes its own row, so that no read races a write.
bool work_is_right(gru_xp::Team& team, int pieces, index stages, index together) {
    std::vector<int> rows(size_t(stages * pieces), 0);
    std::atomic<bool> right{true};
    const bool ran = team.run(pieces, stages, together, [&](int piece, index stage) {
        const auto done = [&](int of, index in) { return rows[size_t(in * pieces + of)] == 1; };
        if (stage > 0 && !done(piece, stage - 1)) right = false;
        for (int i = 0; i < pieces && stage > 0 && stage <= together; ++i)
            if (!done(i, stage - 1)) right = false;
        ++rows[size_t(stage * pieces + piece)];
        return true;
    });
    for (int each : rows)
        if (each != 1) right = false;
    return ran && right;
}

bool team_is_right(int wanted) {
    gru_xp::Team team(wanted);
    if (team.size() < 1 || team.size() > std::max(wanted, 1)) return false;
    bool right = true;
    for (int pieces : {team.size(), 1, 7})
        for (index stages : {0, 1, 2, 6})
            for (index together : {index(0), index(1), stages})
                right = work_is_right(team, pieces, stages, together) && right;
    return right;
}

void test_teams(int rounds) {
    begin_case("a team");
    gru_xp::set_thread_count(4);
    expect(gru_xp::thread_count() == 4, "thread_count is not what was set");
    for (int wanted : {-1, 0, 1, 2, 3, 4, 5, 2})
        expect(team_is_right(wanted), text("a team of %d", wanted));
    {
        gru_xp::Team team(3);
        expect(team.size() == 3, "nobody else has the workers, yet the team is smaller");
        std::thread([&] {
            expect(gru_xp::Team(3).size() == 1, "the workers are another team's");
        }).join();
    }
    begin_case("teams of several callers");
    std::atomic<int> wrong{0};
    at_once([&](int caller) {
        for (int round = 0; round < rounds; ++round)
            if (!team_is_right((caller + round) % 5)) ++wrong;
    });
    expect(wrong == 0, text("%d teams were wrong", wrong.load()));
}

// A lender of threads, like an OpenMP library. It is asked for as many threads as the limit allows,
// and may provide fewer.
std::atomic<int> lent_calls{0}, lent_count{0}, lent_most{INT_MAX};

void lend(void (*body)(void*), void* context, unsigned count, unsigned flags) {
    expect(flags == 0, "flags");
    ++lent_calls;
    lent_count = int(count);
    std::vector<std::thread> threads;
    for (int i = 1; i < std::min(int(count), lent_most.load()); ++i)
        threads.emplace_back(body, context);
    body(context);
    for (auto& thread : threads) thread.join();
}

void test_lent_threads() {
    begin_case("lent threads");
    gru_xp::set_thread_count(1);  // no workers are left
    gru_xp::set_lender(lend);
    expect(team_is_right(3) && lent_calls == 0, "lent to a call without a limit of its own");
    for (int fewer : {3, 2, 1}) {
        lent_most = fewer;
        lent_calls = 0;
        const gru_xp::ThreadLimit limit(3);
        expect(team_is_right(3), text("%d of 3 threads", fewer));
        expect(lent_calls > 0, "not lent");
        gru_xp::Team team(3);
        expect(team.size() == 3, text("size %d", team.size()));
        expect(work_is_right(team, 2, 3, 3) && lent_count == 3, "the lender's threads come and go");
    }
    begin_case("lent threads, and workers that are awake");
    gru_xp::set_thread_count(4);
    lent_most = 1;
    const auto caller = std::this_thread::get_id();
    std::atomic<int> by_others{0};
    for (int round = 0; round < 100; ++round) {
        expect(team_is_right(3), "a team of workers");
        const gru_xp::ThreadLimit limit(3);
        const bool ran = gru_xp::Team(3).run(3, 4, 4, [&](int, index) {
            if (std::this_thread::get_id() != caller) ++by_others;
            return true;
        });
        expect(ran, "a team of lent threads");
    }
    expect(by_others == 0, text("workers did %d stages", by_others.load()));
    gru_xp::set_lender(nullptr);
    lent_calls = 0;
    const gru_xp::ThreadLimit limit(3);
    expect(team_is_right(3) && lent_calls == 0, "lent nothing");
}

void test_failures() {
    begin_case("a body that fails");
    for (int fails : {0, 1, 2}) {
        gru_xp::Team team(3);
        std::atomic<int> too_far{0};
        const bool done = team.run(3, 2, 2, [&](int piece, index stage) {
            if (stage > 0) ++too_far;
            return piece != fails;
        });
        expect(!done, text("the caller does not hear of piece %d", fails));
        expect(too_far == 0, "the next stage was begun all the same");
        expect(work_is_right(team, 3, 2, 2), "the team does not go on after a failure");
    }
}

// Checks that free threads take the work that no thread has started. Every worker stays in the
// first piece that it takes until all other pieces are done.
void test_claims() {
    begin_case("workers that are kept from running");
    const auto caller = std::this_thread::get_id();
    for (index together : {0, 1}) {
        gru_xp::Team team(3);
        const int pieces = 9, stages = 4;
        std::atomic<int> stuck{0}, done{0};
        std::atomic<bool> late{false};
        const index open = together ? 1 : stages;  // stages that others can do meanwhile
        const bool ran = team.run(pieces, stages, together, [&](int, index stage) {
            if (stage == 0 && std::this_thread::get_id() != caller) {
                ++stuck;
                const auto start = std::chrono::steady_clock::now();
                while (done < (pieces - stuck) * open && !late) {
                    std::this_thread::yield();
                    late = std::chrono::steady_clock::now() - start > std::chrono::seconds(20);
                }
            } else {
                ++done;
            }
            return true;
        });
        expect(ran && !late, text("pieces were left to workers that do not come, together %td", together));
    }
}

// Keeps threads waiting for so long that they go to sleep. The end of a stage, and the end of all
// work, must wake them.
void test_sleepers() {
    begin_case("threads that have gone to sleep");
    gru_xp::Team team(3);
    for (int slow = 0; slow < 3; ++slow)
        for (index together : {0, 6}) {
            int order = 0;
            const bool ran = team.run(3, 6, together, [&](int piece, index stage) {
                if (piece != slow) return true;
                if (stage != order++) fail("stages out of order");
                std::this_thread::sleep_for(std::chrono::microseconds(300));
                return true;
            });
            expect(ran && order == 6, "a stage was left out");
        }
}

// Returns the number of threads of this process, or -1 if it is not known.
index threads_of_process() {
    index count = -1;
#ifdef __linux__
    if (DIR* folder = opendir("/proc/self/task")) {
        count = -2;  // leaves out the entries . and ..
        while (readdir(folder)) ++count;
        closedir(folder);
    }
#endif
    return count;
}

// Checks that the thread count has a limit, and that workers beyond the count end.
void test_counts() {
    begin_case("more threads than there can be");
    gru_xp::set_thread_count(65536);
    expect(gru_xp::thread_count() == gru_xp::most_threads(), "the count has no limit");
    expect(gru_xp::most_threads() >= 256, "the limit is low");
    begin_case("workers that are too many");
    gru_xp::set_thread_count(12);
    {
        gru_xp::Team team(12);
        expect(team.size() == 12, "there are fewer than were asked for");
        expect(work_is_right(team, 12, 3, 3), "work of twelve");
    }
    const index before = threads_of_process();
    gru_xp::set_thread_count(4);
    index left = before;
    for (int i = 0; i < 2000 && left > before - 8; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        left = threads_of_process();
    }
    expect(before < 0 || left == before - 8, text("of %td threads %td are left", before, left));
    for (int wanted : {4, 9, 2, 12, 3}) {  // to grow again, even while workers are ending
        gru_xp::set_thread_count(wanted);
        expect(team_is_right(wanted), text("a team of %d afterwards", wanted));
    }
    gru_xp::set_thread_count(4);
}

// Checks that a short call uses other threads only right after another call, and a longer one
// always.
void test_pauses() {
    begin_case("a short call after a pause");
    const index size = 256, longer = 400;
    const std::vector<float> weights(size_t(3 * longer * longer)), x(size_t(longer), 0.5f);
    std::vector<float> out(size_t(longer), 0.0f);
    // Waits until all workers have ended; returns the number of threads left.
    const auto alone = [] {
        gru_xp::set_thread_count(1);
        index least = threads_of_process();
        for (int i = 0; i < 20; ++i) {
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
            if (const index count = threads_of_process(); count < least) {
                least = count;
                i = 0;
            }
        }
        return least;
    };
    const auto step = [&](index of) {
        gru_xp::step<float>({1, of, x.data(), x.data(),
                             {of, weights.data(), weights.data(), nullptr, nullptr}, out.data(), true});
    };
    const index none = alone();
    if (none < 0) return;  // threads cannot be counted here
    gru_xp::set_thread_count(2);
    step(size);
    expect(threads_of_process() == none, "a worker was made for one short call");
    for (int i = 0; i < 100 && threads_of_process() == none; ++i) step(size);
    expect(threads_of_process() == none + 1, "no worker was made for calls one after another");
    expect(alone() == none, "the worker did not end");
    gru_xp::set_thread_count(2);
    step(longer);
    expect(threads_of_process() == none + 1, "no worker was made for a longer call");
    gru_xp::set_thread_count(4);
}

// Tests the CPU quota of control groups of both versions, with files in the kernel's format.
void test_quota() {
    begin_case("a container's quota");
    char folder[] = "/tmp/gru-xp-quota-XXXXXX";
    if (!mkdtemp(folder)) return fail("no temporary folder");
    const std::string root = folder;
    const auto put = [&](const std::string& path, const char* content) {
        for (size_t at = root.size() + 1; (at = (root + path).find('/', at)) != std::string::npos; ++at)
            mkdir((root + path).substr(0, at).c_str(), 0700);
        std::FILE* file = std::fopen((root + path).c_str(), "w");
        if (!file) return fail("no file " + path);
        std::fputs(content, file);
        std::fclose(file);
    };
    const auto quota = [&](const char* groups) { return gru_xp::cpu_quota(groups, folder); };
    expect(quota("0::/\n") == 0, "no file is no limit");
    put("/cpu.max", "max 100000\n");
    expect(quota("0::/\n") == 0, "max is no limit");
    put("/cpu.max", "150000 100000\n");
    expect(quota("0::/\n") == 1.5, "of the root");
    expect(quota("0::/some/group\n") == 1.5, "of a group whose own files are not mounted");
    put("/some/cpu.max", "50000 100000\n");
    put("/some/group/cpu.max", "400000 100000\n");
    expect(quota("0::/some/group\n") == 0.5, "the least of a group and those above it");
    expect(quota("nonsense\n\n:\n0::\n") == 1.5, "lines that are none");
    expect(quota("0::foo\n") == 0, "a path that does not begin at the root");
    put("/a:b/cpu.max", "70000 100000\n");
    expect(quota("0::/a:b\n") == 0.7, "a path with a colon");
    expect(quota("0::/../other\n") == 1.5, "a group outside of those that are seen");
    put("/cpu/docker/cpu.cfs_quota_us", "300000\n");
    put("/cpu/docker/cpu.cfs_period_us", "100000\n");
    expect(quota("5:memory:/docker\n3:cpu,cpuacct:/docker\n") == 3, "of version 1");
    put("/cpu/docker/cpu.cfs_quota_us", "-1\n");
    expect(quota("3:cpuacct,cpu:/docker\n") == 0, "-1 is no limit");
    std::system(("rm -r " + root).c_str());
}

// Returns whether blocks are aligned, belong to the caller alone, and are writable over their whole
// length.
bool scratch_is_right(Random& random) {
    gru_xp::Scratch outer;
    const index lengths[] = {random.below(300), random.below(3000)};
    double *one = outer.take<double>(lengths[0]), *two = outer.take<double>(lengths[1]);
    std::fill_n(one, lengths[0], 1.0);
    std::fill_n(two, lengths[1], 2.0);
    bool right = uintptr_t(one) % 64 == 0 && uintptr_t(two) % 64 == 0;
    {
        gru_xp::Scratch inner;
        // Now and then, take more than Scratch keeps and more than a huge page.
        const index length = random.below(12) ? random.below(20000) : 1100000;
        float* three = inner.take<float>(length);
        right = right && uintptr_t(three) % 64 == 0;
        std::fill_n(three, length, 3.0f);
        right = right && (length == 0 || three[length - 1] == 3);
    }
    float* four = outer.take<float>(77);
    std::fill_n(four, 77, 4.0f);
    for (index i = 0; i < lengths[0]; ++i) right = right && one[i] == 1;
    for (index i = 0; i < lengths[1]; ++i) right = right && two[i] == 2;
    return right;
}

void test_scratch(int rounds) {
    begin_case("scratch of several callers");
    std::atomic<int> wrong{0};
    at_once([&](int caller) {
        Random random(uint64_t(caller + 1));
        for (int round = 0; round < rounds; ++round)
            if (!scratch_is_right(random)) ++wrong;
    });
    expect(wrong == 0, text("%d blocks were wrong", wrong.load()));
    begin_case("scratch of workers");
    gru_xp::Team team(3);
    const bool ran = team.run(3, 1, 0, [&](int piece, index) {
        Random random(uint64_t(piece + 10));
        for (int round = 0; round < rounds; ++round)
            if (!scratch_is_right(random)) return false;
        return true;
    });
    expect(ran && wrong == 0, text("%d blocks were wrong", wrong.load()));
}

// Checks that blocks larger than some megabytes are returned to the system after use.
void test_large_scratch() {
#if defined(__linux__) && !defined(GRU_XP_ADDRESS_SANITIZER) && !defined(GRU_XP_THREAD_SANITIZER)
    begin_case("large scratch is given back");
    const auto resident = [] {
        index all = 0, here = 0;
        std::FILE* file = std::fopen("/proc/self/statm", "r");
        if (!file || std::fscanf(file, "%td %td", &all, &here) != 2) fail("no memory is told");
        if (file) std::fclose(file);
        return here * index(sysconf(_SC_PAGESIZE));
    };
    const index size = index(64) << 20, before = resident();
    {
        gru_xp::Scratch scratch;
        std::fill_n(scratch.take<char>(size), size, char(1));
        expect(resident() - before > size / 2, "what is written is not in memory");
    }
    expect(resident() - before < size / 2, "it was kept");
#endif
}

// Checks teams in a forked child, which has the parent's memory but none of its workers.
void test_fork() {
#ifndef GRU_XP_THREAD_SANITIZER  // ThreadSanitizer does not let a child start threads
    begin_case("a team after a fork");
    expect(team_is_right(3), "a team of the parent");
    std::fflush(nullptr);
    gru_xp::set_lender(lend);  // a child must not call it, as it lacks these threads
    const int lent_before = lent_calls;
    const pid_t child = fork();
    if (child == 0) {
        alarm(20);
        bool right = team_is_right(3);
        const gru_xp::ThreadLimit limit(3);
        right = right && team_is_right(3) && lent_calls == lent_before;
        right = right && gru_xp::Team(2).size() == 2;
        _exit(right ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    gru_xp::set_lender(nullptr);
    expect(status == 0, text("the child ended with status %d", status));
    expect(team_is_right(3), "a team of the parent afterwards");
#endif
}

// Checks a child that is forked while other threads of the parent compute and set the thread count.
// Not with AddressSanitizer: if another thread holds one of its allocator's locks at the fork, the
// lock stays locked in the child. (The C library resets its own locks.)
void test_fork_at_work() {
#if !defined(GRU_XP_THREAD_SANITIZER) && !defined(GRU_XP_ADDRESS_SANITIZER)
    begin_case("a fork while others compute");
    std::atomic<bool> enough{false};
    std::vector<std::thread> threads;
    for (int i = 0; i < 2; ++i)
        threads.emplace_back([&, i] {
            while (!enough) {
                gru_xp::set_thread_count(2 + i);
                team_is_right(3);
            }
        });
    int worst = 0;
    for (int fork_number = 0; fork_number < 20; ++fork_number) {
        std::fflush(nullptr);
        const pid_t child = fork();
        if (child == 0) {
            alarm(20);
            gru_xp::set_thread_count(3);
            _exit(team_is_right(gru_xp::thread_count()) ? 0 : 1);
        }
        int status = -1;
        waitpid(child, &status, 0);
        worst = std::max(worst, status);
    }
    enough = true;
    for (auto& thread : threads) thread.join();
    expect(worst == 0, text("a child ended with status %d", worst));
    gru_xp::set_thread_count(4);
#endif
}

// Checks that workers beyond a count that is set during a call end after the call.
void test_count_set_meanwhile() {
    begin_case("a count set during a call");
    gru_xp::set_thread_count(8);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));  // workers may still be ending
    index before = -1;
    {
        gru_xp::Team team(8);
        expect(team.size() == 8, "nobody else has the workers, yet the team is smaller");
        before = threads_of_process();
        gru_xp::set_thread_count(4);
        expect(work_is_right(team, 8, 3, 3), "the call that it was set in");
    }
    index left = before;
    for (int i = 0; i < 2000 && left > before - 4; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        left = threads_of_process();
    }
    expect(before < 0 || left <= before - 4, text("of %td threads %td are left", before, left));
}

// Checks the detected instruction sets against those that the compiler's run-time library reports.
void test_instruction_sets() {
    begin_case("instruction sets");
#ifdef __x86_64__
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    expect(gru_xp::has_avx2() == avx2, "avx2");
    expect(gru_xp::has_avx512() ==
               (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")),
           "avx512");
#endif
}

// Checks that a worker that wakes up on the caller's processor leaves it, and that it may run on
// all its processors afterwards.
void test_processors() {
#ifdef __linux__
    begin_case("a worker on the caller's processor");
    cpu_set_t before, one, of_worker;
    sched_getaffinity(0, sizeof before, &before);
    if (CPU_COUNT(&before) < 2) return;  // there is no other processor
    const int here = sched_getcpu();
    CPU_ZERO(&one);
    CPU_SET(here, &one);
    gru_xp::Team team(2);
    expect(team.size() == 2, "nobody else has the workers, yet the team is smaller");
    sched_setaffinity(0, sizeof one, &one);
    int seen = -1;
    const auto caller = std::this_thread::get_id();
    // Runs body on the worker. The caller stays in its own piece until then.
    const auto on_worker = [&](auto body) {
        std::atomic<bool> came{false};
        const bool ran = team.run(2, 1, 0, [&](int, index) {
            if (std::this_thread::get_id() == caller) {
                while (!came) sched_yield();
                return true;
            }
            body();
            came = true;
            return true;
        });
        expect(ran, "it failed");
    };
    on_worker([&] {
        sched_getaffinity(0, sizeof of_worker, &of_worker);
        sched_setaffinity(0, sizeof one, &one);  // moves the worker to the caller's processor
        sched_setaffinity(0, sizeof of_worker, &of_worker);
    });
    cpu_set_t after;
    on_worker([&] {
        seen = sched_getcpu();
        sched_getaffinity(0, sizeof after, &after);
    });
    sched_setaffinity(0, sizeof before, &before);
    if (CPU_COUNT(&of_worker) < 2) return;
    expect(seen != here, "it stayed where the caller is busy");
    expect(CPU_EQUAL(&after, &of_worker), "it may not go everywhere any more");
#endif
}

}  // namespace

void test_threads(const Options& options) {
    test_teams(options.quick ? 40 : 400);
    test_lent_threads();
    test_failures();
    test_claims();
    test_sleepers();
    test_counts();
    test_count_set_meanwhile();
    test_pauses();
    test_instruction_sets();
    test_quota();
    test_scratch(options.quick ? 100 : 1000);
    if (!options.emulated) test_large_scratch();
    if (!options.emulated) {
        test_fork();
        test_fork_at_work();
    }
    test_processors();
}

}  // namespace gru_xp_tests
