// Reads lines of syllables (wo'ai'bei'jing), writes what libime's own search finds best for each.
// Nothing is learned from one line to the next. ``bench_pinyin`` builds it where libime is there.
//
// libime converts for the input method fcitx 5. Its words and its trigram of words are read where
// the system has them: nothing here holds a copy. Debian says that they are under LGPL-2.1 or later.
// On what text they were counted was asked in https://github.com/fcitx/libime/issues/140, and we
// know of no answer, so nobody can say whether a test sentence is among it.
#include <iostream>
#include <libime/core/languagemodel.h>
#include <libime/core/userlanguagemodel.h>
#include <libime/pinyin/pinyincontext.h>
#include <libime/pinyin/pinyindecoder.h>
#include <libime/pinyin/pinyindictionary.h>
#include <libime/pinyin/pinyinime.h>

using namespace libime;

int main(int, char **argv) {
    auto trigram = DefaultLanguageModelResolver::instance().languageModelFileForLanguage("zh_CN");
    PinyinIME ime(std::make_unique<PinyinDictionary>(), std::make_unique<UserLanguageModel>(trigram));
    ime.dict()->load(PinyinDictionary::SystemDict, argv[1], PinyinDictFormat::Binary);
    PinyinContext context(&ime);
    for (std::string line; std::getline(std::cin, line);) {
        context.clear();
        context.type(line);
        std::cout << context.sentence() << std::endl;
    }
}
