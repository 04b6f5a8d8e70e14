//! Links, inside the wiki and out of it.

use super::state::{Kind, Scanner};

/// What the part of a target before its first `:` makes of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prefix {
    /// Shown as a link.
    Article,
    /// An image or a category: not part of the text.
    Hidden,
    /// Another language: not part of the text, unless it has a label or a `:` in front.
    Language,
}

/// Schemes of external links.
const SCHEMES: [&str; 6] = ["http://", "https://", "//", "ftp://", "mailto:", "news:"];

impl Scanner<'_> {
    pub(super) fn open_bracket(&mut self) {
        if self.peek(1) == Some(b'[') {
            self.at += 2;
            self.open(Kind::Link);
            return;
        }
        let rest = &self.source[self.at + 1..];
        let scheme = SCHEMES.iter().any(|scheme| {
            rest.as_bytes()
                .get(..scheme.len())
                .is_some_and(|head| head.eq_ignore_ascii_case(scheme.as_bytes()))
        });
        if !scheme {
            return self.literal("[");
        }
        // The address ends at a space or at markup.
        let end = rest
            .bytes()
            .position(|b| matches!(b, b' ' | b']' | b'\n' | b'\t' | b'<' | b'"' | b'[' | b'{' | b'|' | b'}'))
            .unwrap_or(rest.len());
        self.at += 1 + end;
        self.open(Kind::ExternalLink);
    }

    pub(super) fn close_bracket(&mut self) {
        let double = self.peek(1) == Some(b']');
        match self.top() {
            Some(Kind::Link) if double => {
                self.at += 2;
                self.close_link();
            }
            Some(Kind::ExternalLink) => {
                self.at += 1;
                if let Some(frame) = self.pop() {
                    if self.out[frame.start..].trim().is_empty() {
                        self.cut(&frame);
                    } else {
                        // The space between address and label.
                        let text = &self.out[frame.start..];
                        let from = self.out.len() - text.trim_start().len();
                        self.keep(&frame, from..self.out.len());
                    }
                }
            }
            _ if double => self.at += 2,
            _ => self.literal("]"),
        }
    }

    fn close_link(&mut self) {
        let Some(frame) = self.pop() else { return };
        let end = self.out.len();
        let pipe = self.pipes.get(frame.first_pipe).copied();
        let target_end = pipe.unwrap_or(end);
        let target = &self.out[frame.start..target_end];
        let colon = target.trim_start().starts_with(':');
        let name = target.trim_start().trim_start_matches(':');
        let name_start = target_end - name.len();
        let prefix = prefix(name);
        if !colon && (prefix == Prefix::Hidden || (prefix == Prefix::Language && pipe.is_none())) {
            return self.cut(&frame);
        }
        let range = match pipe {
            Some(pipe) if self.out[pipe..].trim().is_empty() => {
                let (from, to) = pipe_trick(name);
                name_start + from..name_start + to
            }
            Some(pipe) => pipe..end,
            None if name.starts_with("http://") || name.starts_with("https://") => match name.find(' ') {
                Some(space) => name_start + space + 1..end,
                None => name_start..end,
            },
            None => name_start + usize::from(name.starts_with('#'))..end,
        };
        self.keep(&frame, range);
    }
}

/// `[[Help:A (b)|]]` shows `A`: the part of `name` without prefix and bracketed end.
fn pipe_trick(name: &str) -> (usize, usize) {
    let start = name.find(':').map_or(0, |colon| colon + 1);
    let rest = &name[start..];
    let end = [" (", "(", "（", "、", ", "]
        .iter()
        .filter_map(|cut| rest.find(cut))
        .filter(|&at| at > 0)
        .min()
        .unwrap_or(rest.len());
    (start, start + end)
}

fn prefix(name: &str) -> Prefix {
    let Some((head, _)) = name.split_once(':') else {
        return Prefix::Article;
    };
    let head = head.trim();
    if head.len() > 32 {
        return Prefix::Article;
    }
    let lower = head.to_lowercase();
    if is_media(&lower) || is_category(&lower) {
        Prefix::Hidden
    } else if is_language(head) {
        Prefix::Language
    } else {
        Prefix::Article
    }
}

/// The file namespace in the languages of the larger Wikipedias; English works everywhere.
fn is_media(name: &str) -> bool {
    matches!(
        name,
        "file"
            | "image"
            | "media"
            | "ファイル"
            | "画像"
            | "メディア"
            | "datei"
            | "bild"
            | "fichier"
            | "archivo"
            | "imagen"
            | "immagine"
            | "ficheiro"
            | "arquivo"
            | "imagem"
            | "bestand"
            | "afbeelding"
            | "plik"
            | "grafika"
            | "файл"
            | "изображение"
            | "fil"
            | "kép"
            | "fájl"
            | "dosya"
            | "resim"
            | "fitxer"
            | "imatge"
            | "파일"
            | "그림"
            | "文件"
            | "檔案"
            | "图像"
            | "圖像"
            | "лаҫ"
            | "imago"
            | "fasciculus"
            | "imaxe"
            | "lêer"
            | "beeld"
            | "skeda"
            | "figura"
            | "mynd"
            | "ಚಿತ್ರ"
            | "ਤਸਵੀਰ"
            | "ගොනුව"
            | "талавар"
            | "talaksan"
            | "imachen"
            | "plaetje"
            | "fiura"
            | "soubor"
            | "tiedosto"
            | "tập tin"
            | "hình"
    )
}

fn is_category(name: &str) -> bool {
    matches!(
        name,
        "category"
            | "カテゴリ"
            | "kategorie"
            | "catégorie"
            | "categoría"
            | "categoria"
            | "categorie"
            | "kategoria"
            | "категория"
            | "kategori"
            | "kategória"
            | "분류"
            | "分类"
            | "分類"
            | "bólkur"
            | "ವರ್ಗ"
            | "ਸ਼੍ਰੇਣੀ"
            | "ප්‍රවර්ගය"
            | "kaarangay"
            | "kaarangayan"
            | "luokka"
            | "thể loại"
    )
}

/// Whether `code` looks like the prefix of a Wikipedia: two or three lower-case letters, or one of the long ones.
fn is_language(code: &str) -> bool {
    const LONG: [&str; 14] = [
        "simple",
        "zh-min-nan",
        "zh-yue",
        "zh-classical",
        "be-x-old",
        "be-tarask",
        "bat-smg",
        "fiu-vro",
        "roa-rup",
        "roa-tara",
        "map-bms",
        "cbk-zam",
        "nds-nl",
        "tokipona",
    ];
    let short = matches!(code.len(), 2 | 3) && code.bytes().all(|b| b.is_ascii_lowercase());
    short || LONG.contains(&code)
}
