// Runs the native tests of the accelerator:
//     native_tests [--quick] [--emulated] [--set NAME ...] [--test NAME ...]
//
// Without arguments, runs every test on every instruction set that is built and that the processor
// supports. --quick runs a fixed subset of the cases. --emulated leaves out the tests that do not
// work reliably on an emulated processor. The exit status is 1 if a test fails.
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>

#include "check.hpp"

using namespace gru_xp_tests;

namespace {

#if !defined(GRU_XP_ADDRESS_SANITIZER) && !defined(GRU_XP_THREAD_SANITIZER)
// Signal handler: an access beyond an array stops the program. Prints the test case it happened in.
void crashed(int number) {
    const char said[] = "FAILED (memory beyond an array was touched) ";
    ssize_t written = write(2, said, sizeof said - 1);
    written += write(2, current_case, strlen(current_case));
    written += write(2, "\n", 1);
    _exit(written > 0 ? 1 : number);
}
#endif

struct Test {
    const char* name;
    void (*run)(const Options&);
};

constexpr Test tests[] = {
    {"reference", test_reference}, {"elementary", test_elementary}, {"product", test_product},
    {"recurrence", test_recurrence}, {"step", test_step}, {"sequence", test_sequence},
    {"shares", test_shares},
    {"counts", test_thread_counts}, {"threads", test_threads},
};

void run(const Test& test, const Options& options) {
    const auto start = std::chrono::steady_clock::now();
    const long before = checks;
    worst_fraction = 0;
    test.run(options);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    std::printf("%-10s %6ld checks, worst error %.2f of what is allowed, %.2f s\n", test.name,
                checks - before, worst_fraction, took.count());
    std::fflush(stdout);
}

bool has(const std::vector<std::string>& names, const char* name) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

int usage() {
    std::fprintf(stderr, "usage: native_tests [--quick] [--emulated] [--set plain|avx2|avx512 ...] [--test ");
    for (const Test& test : tests) std::fprintf(stderr, "%s%s", &test == tests ? "" : "|", test.name);
    std::fprintf(stderr, " ...]\n");
    return 2;
}

}  // namespace

int main(int count, char** arguments) {
    Options options;
    std::vector<std::string> wanted, wanted_tests;
    for (int i = 1; i < count; ++i) {
        const std::string argument = arguments[i];
        if (argument == "--quick") {
            options.quick = true;
        } else if (argument == "--emulated") {
            options.emulated = true;
        } else if (argument == "--set" && i + 1 < count) {
            wanted.push_back(arguments[++i]);
        } else if (argument == "--test" && i + 1 < count) {
            wanted_tests.push_back(arguments[++i]);
        } else {
            return usage();
        }
    }
#if !defined(GRU_XP_ADDRESS_SANITIZER) && !defined(GRU_XP_THREAD_SANITIZER)
    for (int number : {SIGSEGV, SIGBUS}) signal(number, crashed);
#endif
    for (const char* name : {"plain", "avx2", "avx512"}) {
        const bool asked = has(wanted, name);
        if (!wanted.empty() && !asked) continue;
        const gru_xp::InstructionSet* set = gru_xp::choose_instruction_set(name);
        // A width of 0 means that this build leaves out the kernels.
        if (set && set->f32.width)
            options.sets.push_back(name);
        else if (asked) {
            std::fprintf(stderr, "%s: not of this processor, or not built\n", name);
            return 2;
        }
    }
    std::printf("instruction sets:");
    for (const char* name : options.sets) std::printf(" %s", name);
    std::printf("\n");

    for (const Test& test : tests)
        if (wanted_tests.empty() || has(wanted_tests, test.name)) run(test, options);
    if (checks == 0) return usage();  // no test has that name, or there is no instruction set
    if (failures) std::fprintf(stderr, "%ld of %ld checks failed\n", failures, checks);
    return failures ? 1 : 0;
}
