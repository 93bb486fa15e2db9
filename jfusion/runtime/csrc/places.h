// What an operation is registered with holds the paths of the day on which the core was compiled, and its folder may
// have been carried elsewhere since. It is included in Jittor's op_compiler.cc, in the copy that units.py makes.
#pragma once

namespace jittor {

static OpInfo op_info_here(const string& name) {
    auto info = get_op_info(name);
    auto end = jittor_path.rfind('/'), start = jittor_path.rfind('/', end - 1); // <home>/core-KEY/jittor
    auto at = info.source_path.find(jittor_path.substr(start, end - start + 1));
    if (at == string::npos)
        return info;
    string then = info.source_path.substr(0, at + 1), now = jittor_path.substr(0, start + 1);
    for (auto text : {&info.source_path, &info.extra_flags})
        for (size_t i = 0; (i = text->find(then, i)) != string::npos; i += now.size())
            text->replace(i, then.size(), now);
    return info;
}

} // jittor
