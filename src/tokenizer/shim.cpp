// A narrow C interface over SentencePiece: encoding to ids and to offsets, and training from an iterator.
//
// The `sentencepiece` crate encodes through a serialised protocol buffer with a string per piece and cannot
// train. The trainer is left out without INAZUMA_TRAINING. Strings cross the boundary as (pointer, length), so NUL is an ordinary character. Results and errors
// are handed to a sink of the caller's, which copies them: no memory changes hands. No exception leaves.

#include <sentencepiece_processor.h>
#ifdef INAZUMA_TRAINING
#include <sentencepiece_trainer.h>
#endif

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <mutex>
#include <sstream>
#include <streambuf>
#include <string>
#include <unordered_map>
#include <vector>

using sentencepiece::ImmutableSentencePieceText;
using sentencepiece::SentencePieceProcessor;
#ifdef INAZUMA_TRAINING
using sentencepiece::SentencePieceTrainer;
#endif
namespace util = sentencepiece::util;

namespace {

using BytesSink = void (*)(void *context, const char *data, size_t length);
using IdsSink = void (*)(void *context, const int32_t *ids, size_t length);

// A thread keeps its memory for so many pieces between texts.
constexpr size_t kKeptPieces = 1 << 16;

void Send(BytesSink sink, void *context, const std::string &text) {
  sink(context, text.data(), text.size());
}

// Runs `body`, which returns a Status; 0 if it is OK, else 1 with the message in `error`.
template <typename Body>
int Guard(BytesSink error, void *context, Body body) {
  try {
    const util::Status status = body();
    if (status.ok()) return 0;
    Send(error, context, status.ToString());
  } catch (const std::exception &e) {
    Send(error, context, std::string("SentencePiece threw: ") + e.what());
  } catch (...) {
    Send(error, context, "SentencePiece threw something unknown");
  }
  return 1;
}

#ifdef INAZUMA_TRAINING
// Sentences pulled one by one from the caller: `next` returns false at the end.
using NextSentence = bool (*)(void *context, const char **data, size_t *length);

class PulledSentences : public sentencepiece::SentenceIterator {
 public:
  PulledSentences(NextSentence next, void *context)
      : next_(next), context_(context) {
    Next();
  }
  bool done() const override { return done_; }
  void Next() override {
    const char *data = nullptr;
    size_t length = 0;
    if (next_(context_, &data, &length)) {
      value_.assign(data, length);
    } else {
      done_ = true;
    }
  }
  const std::string &value() const override { return value_; }
  util::Status status() const override { return util::Status(); }

 private:
  NextSentence next_;
  void *context_;
  std::string value_;
  bool done_ = false;
};

// SentencePiece logs to std::cerr, from several threads: meanwhile this hands it to a sink, line by line.
class LogToSink : public std::streambuf {
 public:
  LogToSink(BytesSink sink, void *context)
      : sink_(sink), context_(context), original_(std::cerr.rdbuf(this)) {}
  ~LogToSink() override {
    std::cerr.rdbuf(original_);
    if (!line_.empty()) Send(sink_, context_, line_);
  }

 protected:
  std::streamsize xsputn(const char *data, std::streamsize length) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (std::streamsize i = 0; i < length; ++i) Put(data[i]);
    return length;
  }
  int overflow(int c) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (c != traits_type::eof()) Put(static_cast<char>(c));
    return traits_type::not_eof(c);
  }

 private:
  void Put(char c) {
    if (c != '\n') {
      line_.push_back(c);
      return;
    }
    Send(sink_, context_, line_);
    line_.clear();
  }

  BytesSink sink_;
  void *context_;
  std::streambuf *original_;
  std::string line_;
  std::mutex mutex_;
};

// A failed CHECK inside SentencePiece calls exit(-1). While a training runs, that must still end in one line
// and status 1.
bool training = false;

struct Training {
  Training() { training = true; }
  ~Training() { training = false; }
};

void OnExit() {
  if (!training) return;
  std::fputs("inazuma: error: SentencePiece gave up; its last words are in PREFIX.log.partial\n", stderr);
  std::fflush(nullptr);
  std::_Exit(1);
}

std::string VocabText(const SentencePieceProcessor &processor) {
  std::ostringstream text;
  for (int id = 0; id < processor.GetPieceSize(); ++id) {
    text << processor.IdToPiece(id) << "\t" << processor.GetScore(id) << "\n";
  }
  return text.str();
}
#endif

}  // namespace

extern "C" {

SentencePieceProcessor *inazuma_spm_load(const char *model, size_t length,
                                         BytesSink error, void *context) {
  SentencePieceProcessor *processor = nullptr;
  const int failed = Guard(error, context, [&] {
    processor = new SentencePieceProcessor();
    return processor->LoadFromSerializedProto(std::string_view(model, length));
  });
  if (!failed) return processor;
  delete processor;
  return nullptr;
}

void inazuma_spm_free(SentencePieceProcessor *processor) { delete processor; }

size_t inazuma_spm_size(const SentencePieceProcessor *processor) {
  return static_cast<size_t>(processor->GetPieceSize());
}

// The id of a piece, or -1 where the model has no such piece.
int64_t inazuma_spm_piece_to_id(const SentencePieceProcessor *processor,
                                const char *piece, size_t length) {
  const std::string_view wanted(piece, length);
  const int id = processor->PieceToId(wanted);
  if (id < 0 || id >= processor->GetPieceSize()) return -1;
  return processor->IdToPiece(id) == wanted ? id : -1;
}

bool inazuma_spm_is_control(const SentencePieceProcessor *processor, size_t id) {
  return processor->IsControl(static_cast<int>(id));
}

int inazuma_spm_unknown(const SentencePieceProcessor *processor) {
  return processor->unk_id();
}

// Hands the ids to `sink`, once. The library's id-only call (below) makes a protocol buffer of pieces anew for each text,
// several allocations a piece; one that the thread keeps is cleared and filled again: the same ids, a fifth sooner.
int inazuma_spm_encode(const SentencePieceProcessor *processor, const char *text,
                       size_t length, IdsSink sink, BytesSink error, void *context) {
  thread_local ImmutableSentencePieceText pieces;
  thread_local std::vector<int32_t> ids;
  return Guard(error, context, [&] {
    const auto status =
        processor->Encode(std::string_view(text, length), pieces.mutable_proto());
    if (!status.ok()) return status;
    const size_t count = pieces.pieces_size();
    ids.resize(count);
    for (size_t i = 0; i < count; ++i) {
      ids[i] = static_cast<int32_t>(pieces.pieces(static_cast<int>(i)).id());
    }
    sink(context, ids.data(), count);
    // One huge text must not be held for ever.
    if (count > kKeptPieces) {
      pieces = ImmutableSentencePieceText();
      ids = std::vector<int32_t>();
    }
    return util::Status();
  });
}

// The same through the library's own id-only call: what `bench prepare` measures against.
int inazuma_spm_encode_ids(const SentencePieceProcessor *processor, const char *text,
                           size_t length, IdsSink sink, BytesSink error,
                           void *context) {
  static_assert(sizeof(int) == sizeof(int32_t), "ids are 32 bits");
  thread_local std::vector<int> ids;
  return Guard(error, context, [&] {
    const auto status = processor->Encode(std::string_view(text, length), &ids);
    if (status.ok()) sink(context, ids.data(), ids.size());
    return status;
  });
}

// Calls `sink` for every piece: its id and the bytes of the text it stands for.
int inazuma_spm_encode_offsets(const SentencePieceProcessor *processor,
                               const char *text, size_t length,
                               void (*sink)(void *, uint32_t, size_t, size_t),
                               BytesSink error, void *context) {
  return Guard(error, context, [&] {
    const auto result =
        processor->EncodeAsImmutableProto(std::string_view(text, length));
    for (size_t i = 0; i < result.pieces_size(); ++i) {
      const auto piece = result.pieces(static_cast<int>(i));
      sink(context, piece.id(), piece.begin(), piece.end());
    }
    return util::Status();
  });
}

#ifdef INAZUMA_TRAINING
// Trains with options "name=value", one a line. The model and the text of its .vocab go to the sinks.
int inazuma_spm_train(const char *options, size_t options_length,
                      uint32_t seed, BytesSink log_sink, void *log_context,
                      NextSentence next, void *next_context,
                      BytesSink model_sink, void *model_context,
                      BytesSink vocab_sink, void *vocab_context,
                      BytesSink error, void *error_context) {
  static const int registered = std::atexit(OnExit);
  (void)registered;
  return Guard(error, error_context, [&] {
    std::unordered_map<std::string, std::string> named;
    std::istringstream lines(std::string(options, options_length));
    for (std::string line; std::getline(lines, line);) {
      const size_t equals = line.find('=');
      if (equals == std::string::npos) continue;
      named[line.substr(0, equals)] = line.substr(equals + 1);
    }
    sentencepiece::SetRandomGeneratorSeed(seed);
    std::string model;
    {
      LogToSink log(log_sink, log_context);
      PulledSentences sentences(next, next_context);
      const Training now;
      const auto status = SentencePieceTrainer::Train(named, &sentences, &model);
      if (!status.ok()) return status;
    }
    SentencePieceProcessor processor;
    const auto status = processor.LoadFromSerializedProto(model);
    if (!status.ok()) return status;
    Send(model_sink, model_context, model);
    Send(vocab_sink, vocab_context, VocabText(processor));
    return util::Status();
  });
}
#endif

}  // extern "C"
