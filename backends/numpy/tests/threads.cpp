// Team, Barrier and Scratch by themselves, with several callers at once.
#include "threads.hpp"

#ifdef __linux__
#include <sched.h>
#endif
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <new>
#include <stdexcept>
#include <thread>

#include "check.hpp"

namespace gru_xp_tests {
namespace {

constexpr int callers = 4;

// body(caller) on several threads of the test's own.
template <class F>
void at_once(F body) {
    std::vector<std::thread> threads;
    for (int i = 0; i < callers; ++i) threads.emplace_back([&, i] { body(i); });
    for (auto& thread : threads) thread.join();
}

// Every share runs once a task, and sees what all shares of the task before have left.
bool team_is_right(int wanted) {
    gru_xp::Team team(wanted);
    if (team.size() < 1 || team.size() > std::max(wanted, 1)) return false;
    std::vector<int> left(size_t(team.size()), 0);
    std::atomic<bool> right{true};
    for (int task = 1; task <= 3; ++task) {
        team.run([&](int share) { ++left[size_t(share)]; });
        team.run([&](int) {
            for (int each : left)
                if (each != task) right = false;
        });
    }
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

void test_exceptions() {
    begin_case("an exception in a task");
    for (int thrower : {0, 1, 2}) {
        gru_xp::Team team(3);
        std::string caught;
        try {
            team.run([&](int share) {
                if (share == thrower) throw std::runtime_error("share " + std::to_string(share));
            });
        } catch (const std::runtime_error& error) {
            caught = error.what();
        }
        expect(caught == text("share %d", thrower), "it did not reach the caller: " + caught);
        std::atomic<int> shares{0};
        team.run([&](int) { ++shares; });
        expect(shares == 3, "the team does not go on after an exception");
    }
}

// After each wait every share sees what all of them wrote before it.
void test_barrier(int shares, int phases) {
    begin_case("a barrier of %d", shares);
    gru_xp::Barrier barrier(shares);
    std::vector<int> written(size_t(shares), -1);
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (int share = 0; share < shares; ++share)
        threads.emplace_back([&, share] {
            for (int phase = 0; phase < phases; ++phase) {
                written[size_t(share)] = phase;
                if (!barrier.wait()) ++wrong;
                for (int each : written)
                    if (each != phase) ++wrong;
                if (!barrier.wait()) ++wrong;
            }
        });
    for (auto& thread : threads) thread.join();
    expect(wrong == 0, text("%d numbers were early or late", wrong.load()));
}

// Where a share fails before the others' barrier, they go on, know of it, and the caller hears why.
void test_abandoned_barrier() {
    begin_case("a barrier that a share does not reach");
    for (int failing : {0, 1, 2}) {
        gru_xp::Team team(3);
        gru_xp::Barrier barrier(team.size());
        std::atomic<int> told{0};
        bool caught = false;
        try {
            team.run([&](int share) {
                if (share == failing) {
                    barrier.abandon();
                    throw std::bad_alloc();
                }
                if (!barrier.wait()) ++told;
            });
        } catch (const std::bad_alloc&) {
            caught = true;
        }
        expect(caught, "the failure did not reach the caller");
        expect(told == team.size() - 1, text("%d shares were told", told.load()));
    }
}

// Blocks are aligned, the caller's own, and their whole length may be written.
bool scratch_is_right(Random& random) {
    gru_xp::Scratch outer;
    const index lengths[] = {random.below(300), random.below(3000)};
    double *one = outer.take<double>(lengths[0]), *two = outer.take<double>(lengths[1]);
    std::fill_n(one, lengths[0], 1.0);
    std::fill_n(two, lengths[1], 2.0);
    bool right = uintptr_t(one) % 64 == 0 && uintptr_t(two) % 64 == 0;
    {
        gru_xp::Scratch inner;
        // Now and then more than is kept, and than a huge page.
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
    team.run([&](int share) {
        Random random(uint64_t(share + 10));
        for (int round = 0; round < rounds; ++round)
            if (!scratch_is_right(random)) ++wrong;
    });
    expect(wrong == 0, text("%d blocks were wrong", wrong.load()));
}

// A child has the parent's memory, but none of its workers.
void test_fork() {
#if !defined(__SANITIZE_THREAD__)  // which does not let a child start threads
    begin_case("a team after a fork");
    expect(team_is_right(3), "a team of the parent");
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
        alarm(20);
        bool right = team_is_right(3);
        right = right && gru_xp::Team(2).size() == 2;
        _exit(right ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    expect(status == 0, text("the child ended with status %d", status));
    expect(team_is_right(3), "a team of the parent afterwards");
#endif
}

// A worker that wakes up on the caller's processor leaves it, and may go anywhere afterwards.
void test_processors() {
#ifdef __linux__
    begin_case("a worker on the caller's processor");
    cpu_set_t before, one, of_worker;
    sched_getaffinity(0, sizeof before, &before);
    if (CPU_COUNT(&before) < 2) return;  // nowhere to go
    const int here = sched_getcpu();
    CPU_ZERO(&one);
    CPU_SET(here, &one);
    gru_xp::Team team(2);
    expect(team.size() == 2, "nobody else has the workers, yet the team is smaller");
    sched_setaffinity(0, sizeof one, &one);
    int seen = here;
    team.run([&](int share) {
        if (share == 0) return;
        sched_getaffinity(0, sizeof of_worker, &of_worker);
        sched_setaffinity(0, sizeof one, &one);  // moves it here
        sched_setaffinity(0, sizeof of_worker, &of_worker);
    });
    cpu_set_t after;
    team.run([&](int share) {
        if (share == 0) return;
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
    test_exceptions();
    for (int shares = 1; shares <= 4; ++shares) test_barrier(shares, options.quick ? 50 : 500);
    test_abandoned_barrier();
    test_scratch(options.quick ? 100 : 1000);
    test_fork();
    test_processors();
}

}  // namespace gru_xp_tests
