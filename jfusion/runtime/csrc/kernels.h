// Compiles Jittor's CPU kernels, several in one unit: a compiler takes twice as long to read Jittor's headers
// as to compile a small kernel. It is included in Jittor's jit_compiler.cc, in the copy that units.py makes.
#pragma once
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <elf.h>
#include <exception>
#include <fstream>
#include <mutex>
#include <set>
#include <thread>
#include <unistd.h>
#include "misc/hash.h"
#include "utils/cache_compile.h"
#include "utils/log.h"
#include "utils/str_utils.h"

namespace jittor {
namespace kernel_units {

using jit_compiler::read_all;
using jit_compiler::write;

constexpr size_t MOST = 8;         // kernels of a unit: build.py declares that many names jit_run_N
constexpr int WAIT_FOR_OTHERS = 20; // milliseconds in which no other thread asks for a kernel any more

struct Kernel {
    string path, library, symbol, source, flags, libraries, key;
    bool done = false;
    std::exception_ptr error;

    bool uses_std() const { return source.find("\nusing namespace std;") != string::npos; }
};

static std::mutex mutex;
static std::condition_variable changed;
static std::deque<Kernel*> waiting;
static int busy = 0;
static int asked = 0; // how often a kernel was waited for

// The flags that compile, or those that link.
static string select(const string& flags, bool links) {
    string selected;
    for (auto& flag : shsplit(flags)) {
        if (flag.empty() || flag == "-shared" || startswith(flag, "-W") && !startswith(flag, "-Wl"))
            continue;
        bool is_link = startswith(flag, "-l") || startswith(flag, "-L") || startswith(flag, "-Wl");
        if (is_link == links)
            selected += " " + flag;
    }
    return selected;
}

// The flags without paths, which differ between the homes of a cache that has been carried.
static string without_paths(const string& flags) {
    string kept;
    bool is_path = false;
    for (auto& flag : shsplit(flags)) {
        if (!is_path && !startswith(flag, "-I"))
            kept += flag + " ";
        is_path = flag == "-include";
    }
    return kept;
}

static bool run(const string& command, string& output) {
    FILE* pipe = popen((command + " 2>&1").c_str(), "r");
    if (!pipe)
        return false;
    char part[4096];
    while (fgets(part, sizeof part, pipe))
        output += part;
    return pclose(pipe) == 0;
}

static void check_run(const string& command) {
    string output;
    if (!run(command, output)) {
        std::cerr << output;
        LOGf << "Run cmd failed:" << command;
    }
}

// Those that a kernel names are found from its own place, so that the folder of all can be carried elsewhere.
static string with_relative_places(const string& flags) {
    string home = cache_path.substr(0, cache_path.rfind('/') + 1), changed;
    const string option = "-Wl,-rpath,";
    for (auto flag : shsplit(flags)) {
        string path = startswith(flag, option) ? flag.substr(option.size()) : "";
        path.erase(std::remove(path.begin(), path.end(), '"'), path.end());
        if (startswith(path, home))
            flag = option + "'$ORIGIN/../../" + path.substr(home.size()) + "'";
        changed += " " + flag;
    }
    return changed;
}

// Libraries are named by none of the kernels: all that they use has been loaded already.
static string link(const Kernel& kernel, const string& input, const string& output) {
    return "\"" + cc_path + "\" \"" + input + "\"" + kernel.flags + " -w -shared -nodefaultlibs -lm -lgcc" +
           kernel.libraries + " -o \"" + output + "\"";
}

static string temporary(const Kernel& kernel) { return kernel.library + "." + S(getpid()); }

static void publish(const Kernel& kernel) {
    string made = temporary(kernel);
    CHECK(rename(made.c_str(), kernel.library.c_str()) == 0) << "Cannot write" << kernel.library;
    write(kernel.library + ".key", kernel.key);
}

static void compile_alone(const Kernel& kernel) {
    check_run(link(kernel, kernel.path, temporary(kernel)));
    publish(kernel);
}

static string replaced(string text, const string& old, const string& by) {
    auto at = text.find(old);
    return at == string::npos ? text : text.replace(at, old.size(), by);
}

static void add_macro(const string& line, std::set<string>& macros) {
    if (startswith(line, "#define "))
        macros.insert(line.substr(8, line.find_first_of(" (\t", 8) - 8));
}

// A kernel as a part of a unit; "" where it must be compiled alone. Its function gets the number, its macros end
// with it, and the functions that a `jt.code` kernel brings along get a namespace.
static string part(const Kernel& kernel, int number) {
    const string& source = kernel.source;
    auto call = source.find("jit_run() {");
    auto start = source.rfind(kernel.uses_std() ? "\nusing namespace std;" : "\nnamespace jittor {", call);
    if (call == string::npos || start == string::npos)
        return "";
    string function = source.substr(start);
    const string nested = "namespace jittor {";
    string directives, own, space = "kernel_" + S(number);
    std::set<string> macros;
    bool continues = false, has_own = false, in_jittor = false;
    for (auto& line : split(source.substr(0, start), "\n")) {
        string text = strip(line);
        bool directive = continues || startswith(text, "#");
        if (startswith(text, "#if") && has_own)
            return "";
        add_macro(text, macros);
        continues = directive && endswith(text, "\\");
        if (text == nested || (in_jittor && text == "}")) {
            in_jittor = !in_jittor;
            continue;
        }
        if (in_jittor && text.size())
            return ""; // functions in Jittor's own namespace
        has_own |= text.size() && !directive;
        (has_own && !startswith(text, "#include") ? own : directives) += line + "\n";
    }
    if (in_jittor)
        return "";
    for (auto& line : split(function, "\n"))
        add_macro(strip(line), macros);
    string body = "jit_run_" + S(number) + "() {";
    if (has_own) {
        own = "namespace " + space + " {\n" + own + "}\n";
        body += " using namespace " + space + ";";
    }
    string before, after;
    for (auto& name : macros) {
        before += "#pragma push_macro(\"" + name + "\")\n";
        after += "\n#undef " + name + "\n#pragma pop_macro(\"" + name + "\")";
    }
    return before + directives + own + replaced(function, "jit_run() {", body) + after + "\n";
}

// Compiles all in one unit and links a library of each; false if the compiler refuses the unit.
static bool compile_together(vector<Kernel*>& kernels) {
    // `using namespace std` lasts to the end of a unit, so kernels that do without come first
    std::stable_partition(kernels.begin(), kernels.end(), [](Kernel* k) { return !k->uses_std(); });
    string text, name = temporary(*kernels[0]), output;
    for (size_t i = 0; i < kernels.size(); i++)
        text += part(*kernels[i], i);
    write(name + ".cc", text);
    bool good = run("\"" + cc_path + "\" \"" + name + ".cc\"" + kernels[0]->flags +
                        " -w -ffunction-sections -fdata-sections -c -o \"" + name + ".o\"", output);
    for (size_t i = 0; good && i < kernels.size(); i++) {
        auto& kernel = *kernels[i];
        string numbered = replaced(kernel.symbol, "7jit_runE", "9jit_run_" + S(i) + "E");
        write(name + ".map", "{ global: " + kernel.symbol + "; local: *; };\n");
        good = run(link(kernel, name + ".o", temporary(kernel)) + " -Wl,--gc-sections,--defsym=" + kernel.symbol +
                       "=" + numbered + " -Wl,--version-script=\"" + name + ".map\"", output);
        if (good)
            publish(kernel);
    }
    if (!good && getenv("JFUSION_DEBUG_UNITS"))
        std::cerr << output << std::endl;
    for (auto end : {".cc", ".o", ".map"})
        unlink((name + end).c_str());
    return good;
}

static void compile_all(vector<Kernel*>& kernels) {
    vector<Kernel*> together, alone;
    for (auto kernel : kernels)
        (kernels.size() > 1 && part(*kernel, 0).size() ? together : alone).push_back(kernel);
    if (together.size() < 2 || !compile_together(together))
        alone.insert(alone.end(), together.begin(), together.end());
    for (auto kernel : alone)
        try {
            compile_alone(*kernel);
        } catch (...) {
            kernel->error = std::current_exception();
        }
}

// The first of those that wait and its share of the others with the same flags.
static vector<Kernel*> take(int compilers) {
    size_t share = (waiting.size() + compilers - 1) / compilers;
    vector<Kernel*> taken;
    for (auto at = waiting.begin(); at != waiting.end() && taken.size() < std::min(share, MOST);) {
        bool same = taken.empty() || ((*at)->flags == taken[0]->flags && (*at)->libraries == taken[0]->libraries);
        if (same)
            taken.push_back(*at);
        at = same ? waiting.erase(at) : at + 1;
    }
    return taken;
}

// Whether a library reaches to the end of its table of sections, its last part. One that is cut is said to be.
static bool is_whole(const string& library) {
    std::ifstream file(library, std::ios::binary);
    Elf64_Ehdr head{};
    file.read((char*)&head, sizeof head);
    bool whole = file.good() && memcmp(head.e_ident, ELFMAG, SELFMAG) == 0;
    file.seekg(0, std::ios::end);
    if (whole && head.e_shoff + head.e_shentsize * head.e_shnum <= (uint64)file.tellg())
        return true;
    std::cerr << "jfusion: the compiled kernel " << library << " is damaged; it is compiled again" << std::endl;
    return false;
}

// Waits until no other thread asks for a kernel any more: each generates the source of its own first.
static void wait_for_others(std::unique_lock<std::mutex>& lock) {
    for (int before = -1; before != asked;) {
        before = asked;
        lock.unlock();
        std::this_thread::sleep_for(std::chrono::milliseconds(WAIT_FOR_OTHERS));
        lock.lock();
    }
}

} // kernel_units

// Compiles a kernel unless its library is there; the threads that ask at the same time share compilers.
// Jittor edits the assembler text of a kernel with a mark; for that one its own command is run.
static void compile_kernel(const string& command, const string& path, const string& library, const string& symbol,
                           const string& source, const string& flags, const string& extra_flags) {
    using namespace kernel_units;
    string libraries = with_relative_places(select(fix_cl_flags(extra_flags, false), true));
    Kernel kernel{path, library, symbol, source, select(flags + " " + extra_flags, false), libraries};
    kernel.key = without_paths(kernel.flags) + S(hash64(source));
    bool is_there = access(library.c_str(), R_OK) == 0 && read_all(library + ".key") == kernel.key;
    if (is_there && is_whole(library))
        return;
    if (source.find("@begin") != string::npos) {
        jit_compiler::cache_compile(command, cache_path, jittor_path);
        write(library + ".key", kernel.key);
        return;
    }
    static const int compilers = std::max(1, std::min(16, (int)std::thread::hardware_concurrency()));
    std::unique_lock<std::mutex> lock(mutex);
    waiting.push_back(&kernel);
    asked++;
    while (!kernel.done) {
        if (busy >= compilers || waiting.empty()) {
            changed.wait(lock);
            continue;
        }
        int free = compilers - busy++;
        wait_for_others(lock);
        auto taken = take(free);
        lock.unlock();
        compile_all(taken);
        lock.lock();
        busy--;
        for (auto one : taken)
            one->done = true;
        changed.notify_all();
    }
    if (kernel.error)
        std::rethrow_exception(kernel.error);
}

} // jittor
